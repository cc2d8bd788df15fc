"""One table of everything, its verdicts in words, and a figure."""

import json

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.does_it_help import contestants, statistics

STOPPING = ("stopped", "final")
COSTS = {"cost": 1, "share": 2, "time": 1, "stops at": 2}
GUARDED_SUM = contestants.GUARD + "sum"
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


def methods_of(rows, *, guarded=False):
    """Return the rows that are methods and did not fail: the chains, or what runs behind the guard."""
    return {
        label: row
        for label, row in rows.items()
        if "same budget" in row and label.startswith(contestants.GUARD) == guarded
    }


def outcomes(methods, against):
    """Count who is better, level and worse, as text."""
    found = [row[against]["outcome"] for row in methods.values() if against in row]
    return "/".join(str(found.count(outcome)) for outcome in ("better", "level", "worse"))


def table(stored):
    """Return the table of the header: one line per problem, chains only."""
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
        rows, full = rows_of(stored, about["name"]), methods_of(rows_of(stored, about["name"], "final"))
        methods = methods_of(rows)
        best = min(methods, key=lambda label: methods[label]["delta"])
        cells = [f"{rows[label]['delta']:+.1f}" for label in ("equal weights", "tuned weights")]
        cells.append(f"{rows['uncertainty']['delta']:+.1f}" if "uncertainty" in methods else "")
        counts = [*(outcomes(methods, budget) for budget in BUDGETS), outcomes(full, BUDGETS[0])]
        cells += [f"{rows[best]['delta']:+.1f} {best}", *counts]
        lines.append((about["name"], str(len(about["tasks"])), *cells))
    return _aligned(lines)


def guard_table(stored):
    """Return the second table of the header: what runs behind the guard, and how that differs from its chains."""
    lines = [("behind the guard", "sum", "best method", *BUDGETS, "its chain", "median", "from", "to", "time")]
    for about in stored["problems"]:
        rows = rows_of(stored, about["name"])
        methods = methods_of(rows, guarded=True)
        best = min(methods, key=lambda label: methods[label]["delta"])
        pairs = [label for label, row in methods.items() if "its chain" in row]
        changes = [methods[label]["its chain"]["difference"] for label in pairs]
        added = [methods[label]["time"] - rows[statistics.chain_of(label)].get("time", 1) for label in pairs]
        spread = [f"{value:+.1f}" for value in (np.median(changes), min(changes), max(changes))]
        counts = [outcomes(methods, against) for against in (*BUDGETS, "its chain")]
        of_the_sum = f"{rows[GUARDED_SUM]['delta']:+.1f}" if GUARDED_SUM in methods else ""
        best = f"{methods[best]['delta']:+.1f} {best.removeprefix(contestants.GUARD)}"
        lines.append((about["name"], of_the_sum, best, *counts, *spread, f"{np.median(added):+.1f}"))
    return _aligned(lines)


def _aligned(lines):
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def summary(stored, stopping="stopped", budget="same budget"):
    """Return how every method fared over all problems, the best mean rank first."""
    found = {}
    for about in stored["problems"]:
        rows = rows_of(stored, about["name"], stopping)
        for label, row in (methods_of(rows) | methods_of(rows, guarded=True)).items():
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
    for guarded, where in ((False, ""), (True, ", behind the guard")):
        chosen = {
            label.removeprefix(contestants.GUARD): row
            for label, row in fared.items()
            if label.startswith(contestants.GUARD) == guarded
        }
        winners = [f"{name} ({', '.join(row['won'])})" for name, row in chosen.items() if row["won"]]
        lines.append(f"Better than tuned weights of the same budget{where}: " + ("; ".join(winners) or "nobody"))
        lines.append(f"Never better{where}: " + ", ".join(name for name, row in chosen.items() if not row["won"]))
    lines += [line for stopping in STOPPING for line in changed_by_the_guard(stored, stopping)]
    failed = {(row["method"], row["problem"]) for row in stored["rows"] if row.get("failed")}
    lines.append("Failed to train: " + ("; ".join(f"{m} on {p}" for m, p in sorted(failed)) or "nobody"))
    return lines


def changed_by_the_guard(stored, stopping):
    """Return who is surely better or worse behind the guard than without it, over all problems."""
    pairs = [
        (f"{label.removeprefix(contestants.GUARD)} on {about['name']}", row["its chain"])
        for about in stored["problems"]
        for label, row in rows_of(stored, about["name"], stopping).items()
        if "its chain" in row
    ]
    where = "" if stopping == "stopped" else ", not stopped"
    lines = []
    for outcome in ("better", "worse"):
        found = [f"{who} ({versus['difference']:+.1f})" for who, versus in pairs if versus["outcome"] == outcome]
        many = f"{len(found)} of {len(pairs)}"
        lines.append(f"Behind the guard {outcome} than without it{where}, {many}: {', '.join(found) or 'nobody'}")
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
    """Return a figure: by how much methods differ from tuned weights of their budget, without and with the guard."""
    fared, names = summary(stored), [about["name"] for about in stored["problems"]]
    methods = [label for label in fared if not label.startswith(contestants.GUARD)]
    methods += [name for label in fared if (name := label.removeprefix(contestants.GUARD)) not in fared]
    by_problem = {name: rows_of(stored, name) for name in names}
    size = 2.4 + 1.1 * len(names), 1.8 + 0.17 * len(methods)
    figure, axes = plt.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
    panels = {"before Adam": "", "the same behind the guard": contestants.GUARD}
    for ax, (title, prefix) in zip(axes, panels.items(), strict=True):
        values = np.full((len(methods), len(names)), np.nan)
        for i, method in enumerate(methods):
            for j, name in enumerate(names):
                row = by_problem[name].get(prefix + method, {})
                if "same budget" in row:
                    values[i, j] = row["same budget"]["difference"]
                    _write_cell(ax, i, j, row["same budget"])
                elif row.get("failed"):
                    ax.text(j, i, "failed", ha="center", va="center", fontsize=6)
        ax.imshow(values, cmap="PuOr_r", vmin=-40, vmax=40, aspect="auto")
        ax.set_xticks(range(len(names)), names, fontsize=8, rotation=30, ha="left")
        ax.xaxis.tick_top()
        ax.set_yticks(range(len(methods)), methods, fontsize=8)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.set_facecolor("0.9")
        ax.set_title(title, fontsize=9, loc="left")
    figure.supxlabel(
        "Error in % of the reference, minus that of weights tuned with the same budget. "
        "Purple: the method is better.\nA number: surely better or worse (paired test, Holm). Grey: did not take part.",
        fontsize=8,
    )
    return figure


def _write_cell(ax, i, j, versus):
    """Write a number where it is surely different; elsewhere the colour is enough."""
    difference = versus["difference"]
    if versus["outcome"] != "level":
        look = {"color": "white" if abs(difference) > 16 else "black", "fontsize": 7.5, "fontweight": "bold"}
        ax.text(j, i, f"{difference:+.{int(abs(difference) < 9.95)}f}", ha="center", va="center", **look)


def write(parts, folder, took):
    """Store numbers and figure, print tables and sentences."""
    stored = collect(parts) | {"minutes": took}
    stored["verdicts"] = verdicts(stored)
    stored["methods"] = summary(stored)
    (folder / "does_it_help.json").write_text(json.dumps(stored, ensure_ascii=False))
    draw(stored).savefig(folder / "does_it_help.png", dpi=80)
    for about in stored["problems"]:
        print(f"{about['name']}\n{rows_table(stored, about['name'])}\n")
    print(f"{table(stored)}\n\n{guard_table(stored)}\n")
    print("\n".join(stored["verdicts"]))
    print(f"Took {took['wall']} minutes, {took['processor']} of a core")
    return stored
