"""How a study says what was published, what came out here, and whether the two agree."""


def verdict(claim, published, ours, agrees):
    """Return one row: texts, and "agrees" or "differs"; None for `agrees` where nothing was published."""
    outcome = {True: "agrees", False: "differs", None: "-"}[None if agrees is None else bool(agrees)]
    return {"claim": claim, "published": published, "ours": ours, "verdict": outcome}


def table(rows):
    """Return the rows as aligned text."""
    columns = ("claim", "published", "ours", "verdict")
    texts = [columns, *([row[column] for column in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return "\n".join("  ".join(map(str.ljust, text, widths)).rstrip() for text in texts)
