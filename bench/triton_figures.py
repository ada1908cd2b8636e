"""Figures of Triton's programs: who has which element, what a block's addresses are, how code runs.

Grids use the format of `bench.figures`; drawings, as in `bench.diagrams`, are SVG in the text
colour of the page.
"""

import html
from dataclasses import dataclass

from . import style
from .diagrams import PALETTE, Drawing, Sketch
from .figures import TEMPLATE, Figure, Switch

COLORS = (*PALETTE, style.GREY)  # the last one for what is masked, or comes later
REST = len(PALETTE)


@dataclass(frozen=True)
class Grid:
    """Cells with a text and a colour each: `shade` is an index of PALETTE, REST, or None."""

    text: list[list[str]]
    shade: list[list[int | None]]
    alt: str
    hover: list[list[str]] | None = None


def grids(
    panels: dict[str, Grid],
    *,
    switch: str,
    x: str,
    y: str,
    rows: list[str] | None = None,
    source: str = "",
    height: int = 260,
) -> Figure:
    """One grid at a time, chosen by a switch; `x` and `y` are titles, `rows` names the rows."""
    data = []
    for i, grid in enumerate(panels.values()):
        names = rows or [str(r) for r in range(len(grid.text))]
        data.append(
            {
                "type": "heatmap",
                "x": [str(c) for c in range(len(grid.text[0]))],
                "y": names[: len(grid.text)],
                "z": grid.shade,
                "text": grid.text,
                "customdata": grid.hover or grid.text,
                "texttemplate": "%{text}",
                "textfont": {"color": "#ffffff"},
                "hovertemplate": "%{customdata}<extra></extra>",
                "hoverongaps": False,
                "colorscale": [[j / (len(COLORS) - 1), c] for j, c in enumerate(COLORS)],
                "zmin": 0,
                "zmax": len(COLORS) - 1,
                "showscale": False,
                "xgap": 2,
                "ygap": 2,
                "meta": [i],
                "visible": i == 0,
            }
        )
    axis = {"showgrid": False, "zeroline": False, "type": "category", "fixedrange": True}
    layout = {
        "height": height,
        "template": TEMPLATE,
        "margin": {"l": 56, "r": 12, "t": 8, "b": 56},
        "showlegend": False,
        "xaxis": axis | {"title": {"text": x}},
        "yaxis": axis | {"title": {"text": y}, "autorange": "reversed"},
    }
    alts = {str(i): grid.alt for i, grid in enumerate(panels.values())}
    return Figure(data, layout, alts, [Switch(switch, list(panels))], {}, source)


def owners(found: dict[int, list[int]], n: int, *, wide: int = 16, source: str = "") -> Figure:
    """Which program has which of n elements; `found` maps a block to the owner of each element.

    An owner below 0 is nobody: the element does not exist, and if a program's block reaches there
    its mask is false.
    """
    panels = {}
    for block, who in found.items():
        programs = -(-n // block)
        text, shade, hover = [], [], []
        for i, p in enumerate(who):
            if i % wide == 0:
                text.append([]), shade.append([]), hover.append([])
            masked = p < 0 and i < programs * block
            text[-1].append("–" if masked else str(p) if p >= 0 else "")
            shade[-1].append(REST if masked else p % len(PALETTE) if p >= 0 else None)
            what = f"masked out in program {i // block}" if masked else f"program {p}"
            hover[-1].append(f"element {i}: {what}" if masked or p >= 0 else "")
        lost = programs * block - n
        alt = (
            f"{n} elements in blocks of {block}: {programs} programs, {lost} lanes of the last "
            f"one masked out."
        )
        panels[f"{block} ({programs} programs)"] = Grid(text, shade, alt, hover)
    rows = [str(r * wide) for r in range(-(-len(who) // wide))]
    return grids(panels, switch="BLOCK", x=f"element, {wide} in a row", y="first element",
                 rows=rows, source=source, height=230)  # fmt: skip


def addresses(found: dict[str, list[list[int]]], *, sector: int = 8, source: str = "") -> Figure:
    """Offsets of a block in several layouts; those in one `sector` of memory share a colour."""
    panels = {}
    for name, offsets in found.items():
        touched = sorted({o // sector for row in offsets for o in row})
        shade = [[touched.index(o // sector) % len(PALETTE) for o in row] for row in offsets]
        hover = [
            [f"row {r}, column {c}: offset {o}, sector {o // sector}" for c, o in enumerate(row)]
            for r, row in enumerate(offsets)
        ]
        text = [[str(o) for o in row] for row in offsets]
        count = len(touched)
        alt = (
            f"{name}: offsets {text[0][0]}, {text[0][1]}, … in the first row and {text[1][0]}, "
            f"{text[1][1]}, … in the second; they touch {count} sector{'s' if count > 1 else ''}."
        )
        plural = "s" if count > 1 else ""
        panels[f"{name} ({count} sector{plural})"] = Grid(text, shade, alt, hover)
    return grids(panels, switch="Layout", x="column of the block", y="row", source=source)


def order(found: dict[int, list[list[int]]], wave: int, *, source: str = "") -> Figure:
    """Which program has which tile, for several group heights; the first `wave` are coloured."""
    panels = {}
    for group, tiles in found.items():
        first = [(m, n, p) for m, row in enumerate(tiles) for n, p in enumerate(row) if p < wave]
        bands, columns = len({m for m, _, _ in first}), len({n for _, n, _ in first})
        shade = [[group % 7 if p < wave else REST for p in row] for row in tiles]
        text = [[str(p) for p in row] for row in tiles]
        hover = [
            [f"tile ({m}, {n}): program {p}" for n, p in enumerate(row)]
            for m, row in enumerate(tiles)
        ]
        alt = (
            f"GROUP = {group}: the first {wave} programs cover {bands} rows and {columns} columns "
            f"of tiles, and read {bands} bands of A and {columns} of B."
        )
        name = f"{group} (first {wave}: {bands} bands of A, {columns} of B)"
        panels[name] = Grid(text, shade, alt, hover)
    return grids(panels, switch="GROUP", x="column of tiles, a band of B", y="row, a band of A",
                 source=source, height=360)  # fmt: skip


def product(tiles_m=4, tiles_n=4, tiles_k=5, m=1, n=2, k=2) -> Drawing:
    """One program of the matrix product: its tile of c, its band of a, its band of b."""
    alt = (
        "c = a times b, cut into tiles. One program owns one tile of c. It walks along a band of "
        "a, from left to right, and along a band of b, from top to bottom; each turn it multiplies "
        "one block of a with one block of b and adds the product to its tile."
    )
    s, side, gap, left, top = Sketch("product"), 34, 26, 96, 34
    right = left + tiles_k * side + gap
    below = top + tiles_k * side + gap

    def grid(x, y, rows, columns, color, marked, now):
        for r in range(rows):
            for c in range(columns):
                on = marked(r, c)
                opacity = 0.75 if now(r, c) else 0.25
                s.box(x + c * side, y + r * side, side, side, color if on else "none", "",
                      opacity=opacity if on else 0)  # fmt: skip

    grid(left, below, tiles_m, tiles_k, PALETTE[1], lambda r, c: r == m, lambda r, c: c == k)
    grid(right, top, tiles_k, tiles_n, PALETTE[0], lambda r, c: c == n, lambda r, c: r == k)
    grid(right, below, tiles_m, tiles_n, PALETTE[2], lambda r, c: (r, c) == (m, n),
         lambda r, c: True)  # fmt: skip
    s.text(left - 10, below + tiles_m * side / 2 + 5, "a [M, K]", "end")
    s.text(right - 10, top + 18, "b [K, N]", "end")
    s.text(right + tiles_n * side + 10, below + tiles_m * side / 2 + 5, "c [M, N]")
    s.text(left, below + tiles_m * side + 24, "K: one block a turn →", size=15)
    width, height = right + tiles_n * side + 84, below + tiles_m * side + 36
    return s.drawing(width, height, alt)


def schedule(load: float, multiply: float, stages: int, turns: int) -> list[tuple]:
    """(load begins, multiplication begins, it ends) of each turn of a loop with `stages` buffers.

    The load of turn i may begin when the product of turn i - stages is done, since it takes over
    its buffer; the product begins when its load has arrived and the one before is done.
    """
    done, times = [], []
    for i in range(turns):
        begin = done[i - stages] if i >= stages else 0.0
        start = max(begin + load, done[-1] if done else 0.0)
        done.append(start + multiply)
        times.append((begin, start, done[-1]))
    return times


def stages(load: float = 3, multiply: float = 1, turns: int = 5) -> Drawing:
    """How loads and products of a loop overlap with one, two, three and four buffers."""
    unit, line, left, top = 22, 18, 4, 8
    s, ends = Sketch("stages"), {}
    y = top
    for count in (1, 2, 3, 4):
        times = schedule(load, multiply, count, turns)
        ends[count] = times[-1][-1]
        s.text(left, y + 14, f"num_stages = {count}: {ends[count]:g} units of time")
        y += 24
        for i, (begin, start, end) in enumerate(times):
            lane = y + (i % count) * line
            s.box(left + begin * unit, lane, load * unit, line - 3, PALETTE[1], f"load {i}", 12)
            s.box(left + start * unit, y + count * line, (end - start) * unit, line - 3,
                  PALETTE[0], str(i), 12, opacity=0.6)  # fmt: skip
        y += (count + 1) * line + 16
    words = "; ".join(f"{c} {'stage' if c == 1 else 'stages'}: {e:g}" for c, e in ends.items())
    alt = (
        f"{turns} turns of a loop in which a load takes {load:g} and a product {multiply:g} units "
        f"of time. With one buffer they alternate; with more, the next loads run during the "
        f"products. Units of time until the end: {words}."
    )
    return s.drawing(left + max(ends.values()) * unit + 8, y, alt)


def lowering() -> Drawing:
    """The stages of the compiler, and what each decides."""
    rows = [
        ("Python", "the kernel, as you wrote it", PALETTE[7]),
        ("TTIR", "blocks and operations on blocks", PALETTE[1]),
        ("TTGIR", "which thread has which element; copies, stages", PALETTE[0]),
        ("LLVM IR", "one thread's scalars", PALETTE[6]),
        ("PTX", "NVIDIA's portable assembly", PALETTE[2]),
        ("SASS", "the GPU's own instructions, in registers", PALETTE[4]),
    ]
    by = ["Triton: trace types", "Triton: assign layouts", "Triton", "LLVM", "ptxas"]
    s, step = Sketch("lowering"), 62
    for i, (name, words, color) in enumerate(rows):
        y = 6 + i * step
        s.box(4, y, 86, 34, color, name)
        s.text(104, y + 22, words, size=15)
        if i < len(by):
            s.arrow(46, y + 36, 46, y + step - 2)
            s.text(60, y + 53, by[i], size=13)
    alt = "From top to bottom: " + "; ".join(f"{n}, {w}" for n, w, _ in rows) + "."
    return s.drawing(470, 6 + len(rows) * step - 20, alt)


@dataclass(frozen=True)
class Excerpts:
    """Texts under headings that open and close, the first one open."""

    texts: dict[str, str]
    source: str = ""

    def _repr_html_(self) -> str:
        blocks = "".join(
            f"<details{'' if i else ' open'}><summary>{html.escape(name)}</summary>"
            f'<div class="highlight"><pre tabindex="0">{html.escape(text)}\n</pre></div></details>'
            for i, (name, text) in enumerate(self.texts.items())
        )
        note = f'<p class="book-provenance">{html.escape(self.source)}</p>' if self.source else ""
        return blocks + note

    def __repr__(self) -> str:
        parts = [f"--- {name}\n{text}" for name, text in self.texts.items()]
        return "\n".join([*parts, self.source])
