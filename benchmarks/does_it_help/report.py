"""One table of everything, its verdicts in words, and a figure."""

import json

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.does_it_help import statistics

STOPPING = ("stopped", "final")
COSTS = {"cost": 1, "share": 2, "time": 1, "stops at": 2}
BUDGETS = ("same budget", "whole search")
ABOUT = (
    "name",
    "source",
    "tasks",
    "trivial",
    "counts",
    "parameters",
    "steps",
    "seeds",
    "rate",
    "absent",
    "gradients",
    "commit",
)


def collect(parts):
    """Return what is stored of all problems: what they are, and one row per problem, method and way of stopping."""
    rows, abouts = [], []
    for part in parts:
        abouts.append({key: part[key] for key in ABOUT} | {"front of the search": {}, "headline": {}})
        for how in STOPPING:
            table = statistics.table_of(part, how)
            rows += [{"problem": part["name"], "stopping": how, "method": label} | row for label, row in table.items()]
            abouts[-1]["front of the search"][how] = statistics.front(part, how)
            abouts[-1]["headline"][how] = {budget: statistics.headline(table, budget) for budget in BUDGETS}
    return {"machine": parts[0]["machine"], "problems": abouts, "rows": rows}


def rows_of(stored, problem, stopping="stopped"):
    """Return the rows of a problem by method."""
    chosen = [row for row in stored["rows"] if (row["problem"], row["stopping"]) == (problem, stopping)]
    return {row["method"]: row for row in chosen}


def methods_of(rows):
    """Return the rows that are methods and did not fail."""
    return {label: row for label, row in rows.items() if "same budget" in row}


def outcomes(rows, budget):
    """Count who is better, level and worse than tuned weights."""
    found = [row[budget]["outcome"] for row in methods_of(rows).values()]
    return [found.count(outcome) for outcome in ("better", "level", "worse")]


def table(stored):
    """Return the table of the header: one line per problem."""
    columns = (
        "",
        "tasks",
        "equal",
        "tuned",
        "uncertainty",
        "best method",
        "same budget",
        "whole search",
        "not stopped",
    )
    lines = [columns]
    for about in stored["problems"]:
        rows, full = rows_of(stored, about["name"]), rows_of(stored, about["name"], "final")
        methods = methods_of(rows)
        best = min(methods, key=lambda label: methods[label]["delta"])
        cells = [f"{rows[label]['delta']:+.1f}" for label in ("equal weights", "tuned weights")]
        cells.append(f"{rows['uncertainty']['delta']:+.1f}" if "uncertainty" in methods else "")
        counts = ["/".join(map(str, outcomes(rows, budget))) for budget in BUDGETS]
        counts.append("/".join(map(str, outcomes(full, BUDGETS[0]))))
        cells += [f"{rows[best]['delta']:+.1f} {best}", *counts]
        lines.append((about["name"], str(len(about["tasks"])), *cells))
    return _aligned(lines)


def _aligned(lines):
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def summary(stored, stopping="stopped", budget="same budget"):
    """Return how every method fared over all problems, the best mean rank first."""
    found = {}
    for about in stored["problems"]:
        for label, row in methods_of(rows_of(stored, about["name"], stopping)).items():
            found.setdefault(label, []).append((about["name"], row))
    entries = {}
    for label, pairs in found.items():
        won = [name for name, row in pairs if row[budget]["outcome"] == "better"]
        lost = [name for name, row in pairs if row[budget]["outcome"] == "worse"]
        rank = float(np.mean([row["rank"] for _, row in pairs]))
        entries[label] = {"won": won, "lost": lost, "problems": len(pairs), "rank": round(rank, 1)}
    return dict(sorted(entries.items(), key=lambda item: (len(item[1]["lost"]) - len(item[1]["won"]), item[1]["rank"])))


def verdicts(stored):
    """Return the sentences that follow from the table."""
    lines = []
    for about in stored["problems"]:
        lines += [f"{about['name']}, {budget}: {about['headline']['stopped'][budget]}" for budget in BUDGETS]
    fared = summary(stored)
    winners = [f"{label} ({', '.join(row['won'])})" for label, row in fared.items() if row["won"]]
    lines.append("Better than tuned weights of the same budget: " + ("; ".join(winners) or "nobody"))
    lines.append("Never better: " + ", ".join(label for label, row in fared.items() if not row["won"]))
    failed = {(row["method"], row["problem"]) for row in stored["rows"] if row.get("failed")}
    lines.append("Failed to train: " + ("; ".join(f"{m} on {p}" for m, p in sorted(failed)) or "nobody"))
    return lines


def rows_table(stored, problem, stopping="stopped"):
    """Return all rows of one problem as text, the best first."""
    lines = [("method", "Δm %", "±", "rank", "to tuned", "p", "", "cost", "share", "time", "stops at", "HV", "errors")]
    rows = rows_of(stored, problem, stopping)
    for label, row in sorted(rows.items(), key=lambda item: item[1].get("delta", np.inf)):
        if row.get("failed"):
            lines.append((label, row["failed"][:40], *[""] * 11))
            continue
        middle, costs = [""] * 3, [""] * 4
        if "same budget" in row:
            versus = row["same budget"]
            middle = [f"{versus['difference']:+.1f}", f"{versus['p']:.3f}", versus["outcome"]]
            costs = [f"{row[key]:.{digits}f}" for key, digits in COSTS.items()]
        volume = "" if row["hypervolume"] is None else f"{row['hypervolume']:.3f}"
        errors = " ".join(f"{error:.3f}" for error in row["errors"][:3]) + (" …" if len(row["errors"]) > 3 else "")
        lines.append(
            (
                label,
                f"{row['delta']:+.1f}",
                f"{row['spread']:.1f}",
                f"{row['rank']:.1f}",
                *middle,
                *costs,
                volume,
                errors,
            )
        )
    return _aligned(lines)


def draw(stored):
    """Return a figure: by how much every method differs from tuned weights of its budget, on every problem."""
    fared, names = list(summary(stored)), [about["name"] for about in stored["problems"]]
    by_problem = {name: rows_of(stored, name) for name in names}
    values = np.full((len(fared), len(names)), np.nan)
    figure, ax = plt.subplots(figsize=(1.6 + 0.85 * len(names), 1.4 + 0.2 * len(fared)))
    for i, label in enumerate(fared):
        for j, name in enumerate(names):
            row = by_problem[name].get(label, {})
            if "same budget" in row:
                values[i, j] = row["same budget"]["difference"]
                sure, strong = row["same budget"]["outcome"] != "level", abs(values[i, j]) > 16
                look = {"color": "white" if strong else "black" if sure else "0.35", "fontsize": 7 if sure else 6}
                look |= {"ha": "center", "va": "center", "fontweight": "bold" if sure else "normal"}
                ax.text(j, i, f"{values[i, j]:+.{int(abs(values[i, j]) < 9.95)}f}", **look)
            elif row.get("failed"):
                ax.text(j, i, "failed", ha="center", va="center", fontsize=6)
    ax.imshow(values, cmap="PuOr_r", vmin=-40, vmax=40, aspect="auto")
    ax.set_xticks(range(len(names)), names, fontsize=8, rotation=30, ha="left")
    ax.xaxis.tick_top()
    ax.set_yticks(range(len(fared)), fared, fontsize=7)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("Error in % of the reference, minus that of weights tuned with the same budget.\n"
                  "Purple: the method is better. Bold: surely so (Holm).", fontsize=8)  # fmt: skip
    figure.tight_layout()
    return figure


def write(parts, folder):
    """Store numbers and figure, print table and sentences."""
    stored = collect(parts)
    stored["verdicts"] = verdicts(stored)
    stored["methods"] = summary(stored)
    (folder / "does_it_help.json").write_text(json.dumps(stored, ensure_ascii=False))
    draw(stored).savefig(folder / "does_it_help.png", dpi=62)
    for about in stored["problems"]:
        print(f"{about['name']}\n{rows_table(stored, about['name'])}\n")
    print(table(stored))
    print("\n" + "\n".join(stored["verdicts"]))
    return stored
