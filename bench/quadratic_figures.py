"""Figures of chapter 2: what crosses the memory bus, the walk over tiles, growth until failure."""

from . import diagrams, style, tables
from .diagrams import PALETTE, Curve, Drawing, Sketch
from .figures import Figure, by_gpu
from .roofline import WORKS
from .studies import Study

LABELS = {
    "naive": "as defined",
    "math": "SDPA math",
    "tiled": "SDPA, tiled",
    "linear": "linear (this book)",
}
LOOKS = {"naive": "definition", "math": "tiled", "tiled": "sdpa-flash", "linear": "book"}


def crossings() -> Drawing:
    """What each operation of the definition reads and writes, and the same for one tiled kernel."""
    alt = (
        "As defined, four operations follow one another. The product q k transposed reads q and k "
        "and writes the scores; the division reads scores and writes scores; softmax reads scores "
        "and writes weights; the product with v reads weights and v and writes o. Between memory "
        "and chip a square of N by N crosses six times. Tiled, one operation reads q, k and v and "
        "writes o, and no square crosses."
    )
    operations = [
        ("q kᵀ", ("q, k", False), ("scores", True)),
        ("÷ √D", ("scores", True), ("scaled scores", True)),
        ("softmax", ("scaled scores", True), ("weights", True)),
        ("p v", ("weights, v", True), ("o", False)),
    ]
    pen, left, right, wide = Sketch("crossings"), 104, 356, 484
    row, top = 84, 54

    def operation(y, name, read, written):
        pen.box(right, y, wide - right, row - 20, PALETTE[2], name, 18)
        for (words, square), start, stop, at in (
            (read, left + 6, right - 4, y + 20),
            (written, right - 4, left + 6, y + row - 30),
        ):
            color = PALETTE[0] if square else PALETTE[1]
            pen.thick_arrow(start, stop, at, 12 if square else 2.5, color)
            pen.text((left + right) / 2, at - (10 if square else 7), words, "middle", 14)

    def memory(y, height):
        pen.box(8, y, left - 8, height, PALETTE[1], "memory", 17, opacity=0.12)

    pen.text(8, 26, "As defined: squares cross six times", size=17)
    memory(top - 12, 4 * row + 4)
    for i, (name, read, written) in enumerate(operations):
        operation(top + i * row, name, read, written)
    below = top + 4 * row + 44
    pen.text(8, below - 16, "Tiled: one operation, no square crosses", size=17)
    memory(below + 2, row + 8)
    operation(below + 16, "all four", ("q, k, v", False), ("o", False))
    return pen.drawing(wide + 12, below + row + 22, alt)


def walk(blocks: int = 6, row: int = 2, column: int = 3) -> Drawing:
    """The tile of scores that a program is at, the ones it has left behind, and what it keeps."""
    alt = (
        f"The scores, cut into {blocks} by {blocks} tiles. A program has one block of queries and "
        f"walks along one row of tiles, a block of keys and values at a time. It is at tile "
        f"{column + 1}; the {column} before it are gone. It keeps its block of q and of o, the "
        "largest score m and the sum l of each query. The other rows of tiles belong to other "
        "programs."
    )
    pen, size, x0, y0 = Sketch("walk"), 40, 66, 104
    end = x0 + blocks * size
    pen.text(x0 + blocks * size / 2, 20, "keys and values, a block at a time", "middle", 15)
    for r, name in enumerate("kv"):
        pen.text(x0 - 12, 50 + r * 34, name, "end", 17)
        for b in range(blocks):
            shade = 0.6 if b == column else 0.15
            pen.box(x0 + b * size, 32 + r * 34, size - 4, 26, PALETTE[1], opacity=shade)
    pen.text(24, y0 - 8, "q", "middle", 17)
    for i in range(blocks):
        shade = 0.6 if i == row else 0.15
        pen.box(8, y0 + i * size, size - 8, size - 4, PALETTE[1], opacity=shade)
        for j in range(blocks):
            here, done = (i, j) == (row, column), i == row and j < column
            shade = 0.75 if here else 0.28 if done else 0.0
            color = PALETTE[0] if here or done else "none"
            pen.box(x0 + j * size, y0 + i * size, size - 4, size - 4, color, opacity=shade)
    middle = y0 + row * size + size / 2 - 2
    pen.thick_arrow(x0 + (column + 1) * size + 2, end - 6, middle, 2.5, "currentColor")
    pen.text(end + 22, y0 - 8, "o", "middle", 17)
    for i in range(blocks):
        shade = 0.6 if i == row else 0.15
        pen.box(end + 8, y0 + i * size, size - 8, size - 4, PALETTE[2], opacity=shade)
    below = y0 + blocks * size + 12
    pen.box(8, below, end + size - 8, 56, PALETTE[2], opacity=0.15)
    middle = (end + size) / 2 + 2
    pen.text(middle, below + 23, "on the chip: blocks of q and o,", "middle", 15)
    pen.text(middle, below + 43, "m and ℓ of each query, one tile", "middle", 15)
    return pen.drawing(end + size + 12, below + 66, alt)


def growth(shown: list[Study], column: str, y: str, *, unit: float, extra=None):
    """A column of each study against N until each way fails; switches choose GPU and work.

    `unit` is what the column is divided by, and `extra(study, work)` gives further curves. A cross
    marks the shortest length at which a way ran out of memory, where its curve would go on.
    """
    return by_gpu(shown, lambda study: _growth(study, column, y, unit, extra))


def _growth(study: Study, column: str, y: str, unit: float, extra) -> Figure:
    panels, marks, alts, numbers = {}, [], [], {}
    for at, work in enumerate(WORKS):
        drawn, ends, cells = [], [], {}
        for way in LABELS:
            rows = study.select(what="length", way=way, work=work)
            good = [r for r in rows if r["status"] == "ok"]
            for r in rows:
                text = style.number(r[column] / unit) if r["status"] == "ok" else _word(r)
                cells.setdefault(r["N"], {})[way] = text
            if not good:
                continue
            xs, ys = [r["N"] for r in good], [r[column] / unit for r in good]
            drawn.append(Curve(LABELS[way], xs, ys, LOOKS[way]))
            said = f"{LABELS[way]} {style.number(ys[-1])} at N = {style.length(xs[-1])}"
            fails = fails_at(study, way, work)
            if fails is not None:
                power = 1 if way == "linear" else 2
                marks.append((at, way, fails, ys[-1] * (fails / xs[-1]) ** power))
                said += f", out of memory at N = {style.length(fails)}"
            ends.append(said)
        name = style.work_name(work)
        panels[name] = drawn + (extra(study, work) if extra else [])
        alts.append(f"{y[0].upper()}{y[1:]} by length, {name}: {'; '.join(ends)}.")
        there = [way for way in LABELS if any(way in c for c in cells.values())]
        body = [[style.length(n), *(cells[n].get(w, "–") for w in there)] for n in sorted(cells)]
        columns = ["N", *(LABELS[w] for w in there)]
        numbers[str(at)] = tables.Table(
            columns, body, f"{y[:1].upper()}{y[1:]}, {name}; {study.line}."
        )
    source = style.sentence(study.line)
    figure = diagrams.curves(
        panels, x="sequence length N", y=y, alts=alts, switch="Work", log=True, source=source
    )
    figure.data.extend(_cross(*mark) for mark in marks)
    figure.numbers |= numbers
    return fewer_ticks(figure)


def fewer_ticks(figure: Figure) -> Figure:
    """The figure, with every second length named, so that they stay level on a narrow page."""
    lengths = [n for n in figure.layout["xaxis"]["tickvals"] if n.bit_length() % 2]  # powers of 4
    figure.layout["xaxis"] |= {"tickvals": lengths, "ticktext": [*map(style.length, lengths)]}
    return figure


def fails_at(study: Study, way: str, work: str) -> int | None:
    """The shortest N at which a way was seen to run out of memory; None if it never was."""
    limits = study.select(what="limit", way=way, work=work)
    if limits:
        return limits[0]["fails_N"]
    short = study.select(what="length", way=way, work=work, status="oom")
    return min((r["N"] for r in short), default=None)


def _word(row: dict) -> str:
    return {"oom": "out of memory", "too_long": "too long"}.get(row["status"], row["status"])


def _cross(at: int, way: str, n: int, height: float) -> dict:
    """The mark of a failure; not in the legend, since it belongs to the curve that it ends."""
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"{LABELS[way]}: out of memory",
        "x": [n],
        "y": [height],
        "hovertemplate": f"{LABELS[way]}: out of memory at N = {n}<extra></extra>",
        "marker": {
            "color": style.look(LOOKS[way]).color,
            "symbol": "x-thin",
            "size": 13,
            "line": {"color": style.look(LOOKS[way]).color, "width": 3},
        },
        "showlegend": False,
        "meta": [at],
        "visible": at == 0,
    }
