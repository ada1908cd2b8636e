"""Figures that explain: plain curves with one switch, and pictures of what a kernel does.

They use the figures' format and look (`bench.figures`), so that a page draws both alike. Drawings
take the text colour of the page, and so fit light and dark.
"""

import html
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

from . import style
from .figures import AXIS, LEGEND, MARGIN, TEMPLATE, Figure, Switch
from .tables import Table

WIDE_LEGEND = 90  # characters, from which on a legend has more lines than the usual margin holds
MOST_ROWS = 25  # of a table under a figure; of more points some are shown
PALETTE = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#B38600", "#2A93D5", "#8C6BB1", "#7A7A00")


@dataclass(frozen=True)
class Curve:
    """One line of `curves`: `look` is a name that `bench.style.look` knows, or any other.

    `spread` has the least and the largest value at each x, which are drawn as a bar through y.
    """

    label: str
    x: list
    y: list
    look: str
    markers: bool = True
    spread: list[tuple] | None = None


@dataclass(frozen=True)
class Axis:
    """Title and scale of an axis; `ticks` maps places to texts.

    A linear one begins at 0 unless `zero` is False. With `words` its values are names, one beside
    the other, also where they look like numbers. `text` writes a value for the table.
    """

    title: str
    log: bool = False
    ticks: dict = field(default_factory=dict)
    zero: bool = True
    words: bool = False
    text: Callable | None = None

    def layout(self) -> dict:
        """The axis in Plotly's words."""
        found = AXIS | {"title": {"text": self.title}}
        if self.log:
            found["type"] = "log"
        elif self.words:
            found["type"] = "category"
        elif self.zero:
            found["rangemode"] = "tozero"
        if self.ticks:
            found |= {"tickvals": list(self.ticks), "ticktext": list(self.ticks.values())}
        return found

    def write(self, value) -> str:
        """A value as tables show it."""
        if self.text is not None:
            return self.text(value)
        return f"{value:,}" if isinstance(value, int) else _cell(value)


def curves(
    panels: dict[str, list[Curve]],
    *,
    x: str | Axis,
    y: str | Axis | list[str],
    alts: list[str],
    switch: str = "Show",
    log: bool = False,
    marks: list[tuple[str, float]] | dict[str, list[tuple[str, float]]] = (),
    source: str | list[str] = "",
    height: int = 400,
) -> Figure:
    """Curves over a common x; with several panels a switch chooses the one that is shown.

    `panels` maps an option of the switch to its curves, `alts` has one text for each of them.
    `x` and `y` are axes, or their titles alone; of titles, `log` makes both logarithmic, x in
    powers of two. A list for `y` has a title for each panel. `marks` are vertical lines, (what
    stands in the legend, x), drawn in every panel, or in a dict those of each. Under the figure
    stands a table of the curves of each panel. A list for `source` has that of each panel.
    """
    xs = [n for drawn in panels.values() for curve in drawn for n in curve.x]
    x_axis = x if isinstance(x, Axis) else _titled(x, log, xs)
    titles = y if isinstance(y, list) else []
    y_axis = y if isinstance(y, Axis) else _titled(titles[0] if titles else y, log, None)
    if y_axis.log and not isinstance(y, Axis):
        heights = [v for drawn in panels.values() for curve in drawn for v in curve.y if v]
        y_axis = replace(y_axis, ticks=_powers(heights))
    data, numbers = [], {}
    sources = source if isinstance(source, list) else [source] * len(panels)
    for i, (option, drawn) in enumerate(panels.items()):
        data += [_trace(curve, i, short=isinstance(x, Axis) and x.log) for curve in drawn]
        here = marks.get(option, ()) if isinstance(marks, dict) else marks
        data += _upright(here, drawn, i, y_axis.log)
        named = replace(y_axis, title=titles[i]) if titles else y_axis
        found = _table(drawn, x_axis, named, sources[i])
        if found.rows:
            numbers[str(i)] = found
    labels = sum(len(t["name"]) + 4 for t in data if t["visible"])
    layout = {
        "height": height,
        "template": TEMPLATE,
        "margin": MARGIN if labels < WIDE_LEGEND else MARGIN | {"b": 130},
        "hovermode": "closest",
        "legend": LEGEND,
        "xaxis": x_axis.layout(),
        "yaxis": y_axis.layout(),
    }
    texts = {str(i): alt for i, alt in enumerate(alts)}
    said = {str(i): title for i, title in enumerate(titles)}
    where = " ".join(dict.fromkeys(sources))
    return Figure(data, layout, texts, [Switch(switch, list(panels))], numbers, where, said)


def _titled(title: str, log: bool, lengths: list | None) -> Axis:
    """An axis of which the title is all that was said: of `lengths`, or None for a y axis."""
    if log and lengths is not None:
        marks = {n: style.length(n) for n in _apart(sorted(set(lengths)))}
        return Axis(title, True, marks, text=style.length)
    if log:
        return Axis(title, True)
    return Axis(title, zero=lengths is None)


def _powers(values: list) -> dict:
    """Ticks of a logarithmic axis: powers of 10, and 2 and 5 times those where there were few."""
    decades = {10.0**e: _decade(e) for e in range(-9, 10)}
    if not values or max(values) > 100 * min(values):
        return decades
    between = (m * 10.0**e for e in range(-3, 4) for m in (2, 5))
    return decades | {float(f"{tick:.1g}"): style.number(tick) for tick in between}


def _trace(curve: Curve, panel: int, dash=None, width: float = 2, short: bool = False) -> dict:
    """A curve in Plotly's words; with `short` a hover says 16.78M for 2²⁴."""
    look = style.look(curve.look)
    bars = {}
    if curve.spread:
        low, high = zip(*curve.spread, strict=True)
        bars["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [b - y for b, y in zip(high, curve.y, strict=True)],
            "arrayminus": [y - a for a, y in zip(low, curve.y, strict=True)],
            "thickness": 1.2,
            "width": 3,
        }
    return bars | {
        "type": "scatter",
        "mode": "lines+markers" if curve.markers else "lines",
        "name": curve.label,
        "x": list(curve.x),
        "y": list(curve.y),
        "hovertemplate": f"{curve.label}<br>%{{x{':.4s' * short}}}: %{{y:.3g}}<extra></extra>",
        "line": {"color": look.color, "dash": dash or look.dash, "width": width},
        "marker": {"color": look.color, "symbol": look.symbol, "size": 7},
        "meta": [panel],
        "visible": panel == 0,
    }


def _upright(marks, drawn: list[Curve], panel: int, log: bool) -> list[dict]:
    """Vertical lines as high as the curves of a panel; none where that has no points."""
    ys = [v for curve in drawn for v in curve.y if v is not None]
    if not ys:
        return []
    height = [min(ys) if log else 0, max(ys)]
    dashes = ("dash", "longdashdot", "dot")
    return [
        _trace(Curve(name, [at, at], height, "floor", False), panel, dashes[i % 3], 1)
        for i, (name, at) in enumerate(marks)
    ]


def _table(drawn: list[Curve], x: Axis, y: Axis, source: str) -> Table:
    """A row for each x at which something was marked, or for some where nothing is."""
    marked = [curve for curve in drawn if curve.markers] or drawn
    places = list(dict.fromkeys(n for curve in marked for n in curve.x))
    if not any(isinstance(n, str) for n in places):
        places.sort()
    if len(places) > MOST_ROWS:
        step = (len(places) - 1) / (MOST_ROWS - 1)
        places = [places[round(i * step)] for i in range(MOST_ROWS)]
    found = {c.label: dict(zip(c.x, c.y, strict=True)) for c in drawn}
    found = {name: at for name, at in found.items() if any(at.get(n) is not None for n in places)}
    rows = [[x.write(n), *(_cell(at.get(n)) for at in found.values())] for n in places]
    title = f"{y.title[:1].upper()}{y.title[1:]}. " if y.title else ""
    caption = title + source
    return Table([x.title, *found], rows if found else [], caption.strip())


def _cell(value) -> str:
    return value if isinstance(value, str) else style.number(value)


def _apart(lengths: list) -> list:
    """Those that labels fit under: the last, and before it what is over half a usual step away."""
    steps = sorted(b / a for a, b in pairwise(lengths))
    kept = lengths[-1:]
    for n in reversed(lengths[:-1]):
        if kept[0] / n > steps[len(steps) // 2] ** 0.5:
            kept.insert(0, n)
    return kept


def _decade(e: int) -> str:
    """10 to the e, short enough for the left margin."""
    if -4 < e < 5:
        return style.number(10.0**e)
    return "10" + str(e).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def programs(visits: dict[int, list], *, source: str = "") -> Figure:
    """Which program loads which block of rows; a switch chooses the number of parts.

    `visits` maps a number of parts to [parts][heads][blocks] of whether the program of that part
    and head loaded that block. A block that nobody loads stays empty; one that several load is
    marked with all of them.
    """
    data, alts, options = [], {}, []
    for i, (parts, visited) in enumerate(visits.items()):
        heads, blocks = len(visited[0]), len(visited[0][0])
        owners = [
            [[p * heads + h for p in range(parts) if visited[p][h][b]] for b in range(blocks)]
            for h in range(heads)
        ]
        shade = [[who[0] % len(PALETTE) if who else None for who in row] for row in owners]
        words = [[", ".join(map(str, who)) for who in row] for row in owners]
        data.append(
            {
                "type": "heatmap",
                "x": list(range(blocks)),
                "y": [f"head {h}" for h in range(heads)],
                "z": shade,
                "text": words,
                "texttemplate": "%{text}",
                "textfont": {"color": "#ffffff"},
                "hovertemplate": "%{y}, block %{x}: program %{text}<extra></extra>",
                "colorscale": [[j / (len(PALETTE) - 1), c] for j, c in enumerate(PALETTE)],
                "zmin": 0,
                "zmax": len(PALETTE) - 1,
                "showscale": False,
                "xgap": 2,
                "ygap": 6,
                "meta": [i],
                "visible": i == 0,
            }
        )
        used = len({p for row in owners for who in row for p in who})
        each = max(sum(bool(seen) for seen in row) for part in visited for row in part)
        alts[str(i)] = (
            f"{heads} heads of {blocks} blocks of rows, cut into {parts} parts: {used} programs, "
            f"each of which loads at most {each} blocks one after the other."
        )
        options.append(f"{parts} ({used} programs, {each} blocks each)")
    layout = {
        "height": 280,
        "template": TEMPLATE,
        "margin": {"l": 64, "r": 12, "t": 8, "b": 56},
        "showlegend": False,
        "xaxis": {"title": {"text": "block of rows"}, "dtick": 1, "showgrid": False},
        "yaxis": {"autorange": "reversed", "showgrid": False},
    }
    return Figure(data, layout, alts, [Switch("Parts of a head", options)], {}, source)


@dataclass(frozen=True)
class Drawing:
    """An SVG in the text of the page, with its alternative text."""

    svg: str
    alt: str

    def _repr_html_(self) -> str:
        return f'<div class="book-drawing">{self.svg}</div>'

    def __repr__(self) -> str:
        return self.alt


class Sketch:
    """Shapes and words that become a Drawing; by `name` its arrow heads differ from others."""

    def __init__(self, name: str):
        self.name, self.parts = name, []

    def text(self, x, y, words, anchor="start", size=16, bold=False):
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{size}"{weight}>'
            f"{html.escape(words)}</text>"
        )

    def box(self, x, y, w, h, color="none", text="", size=16, opacity=0.25, dashed=False):
        """A rectangle, with words in its middle."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="3" fill="{color}" '
            f'fill-opacity="{opacity}" stroke="currentColor"{_dash(dashed)}/>'
        )
        if text:
            self.text(x + w / 2, y + h / 2 + size / 3, text, "middle", size)

    def arrow(self, x0, y0, x1, y1, dashed=False, both=False):
        """A thin arrow, with heads at both ends if asked."""
        start = f' marker-start="url(#{self.name}-tip)"' if both else ""
        self.parts.append(
            f'<path d="M{x0:g} {y0:g} L{x1:g} {y1:g}" stroke="currentColor" fill="none"'
            f'{_dash(dashed)}{start} marker-end="url(#{self.name}-tip)"/>'
        )

    def line(self, x0, y0, x1, y1, dashed=False):
        self.parts.append(
            f'<path d="M{x0:g} {y0:g} L{x1:g} {y1:g}" stroke="currentColor"{_dash(dashed)}/>'
        )

    def arc(self, x0, x1, y, height):
        """A thin arrow from x0 to x1 over what stands below y."""
        self.parts.append(
            f'<path d="M{x0:g} {y:g} C{x0:g} {y - height:g} {x1:g} {y - height:g} {x1:g} {y:g}" '
            f'stroke="currentColor" fill="none" marker-end="url(#{self.name}-tip)"/>'
        )

    def thick_arrow(self, x0, x1, y, width, color):
        """A level arrow from x0 to x1 of a thickness that says how much it carries."""
        head = 7 + width / 2
        tip = x1 - head if x1 > x0 else x1 + head
        self.parts.append(
            f'<path d="M{x0:g} {y:g} H{tip:g}" stroke="{color}" stroke-width="{width}" '
            f'fill="none"/><path d="M{tip:g} {y - head:g} L{x1:g} {y:g} L{tip:g} {y + head:g} z" '
            f'fill="{color}" stroke="none"/>'
        )

    def drawing(self, width, height, alt: str, widest: int | None = None) -> Drawing:
        """What was drawn, at most `widest` pixels wide on a page, or else `width`."""
        head = (
            f'<defs><marker id="{self.name}-tip" viewBox="0 0 8 8" refX="7" refY="4" '
            'markerWidth="8" markerHeight="8" orient="auto-start-reverse">'
            '<path d="M0 0 L8 4 L0 8 z" fill="currentColor"/></marker></defs>'
        )
        parts = "".join(self.parts)
        svg = (
            f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{html.escape(alt)}" '
            f'style="width: 100%; max-width: {widest or width:g}px; color: inherit" '
            f'fill="currentColor" font-family="{html.escape(style.FONT)}">'
            f"{head if 'url(#' in parts else ''}{parts}</svg>"
        )
        return Drawing(svg, alt)


def _dash(dashed: bool) -> str:
    return ' stroke-dasharray="4 3"' if dashed else ""


def two_passes(blocks: int = 4) -> Drawing:
    """The two passes of bidirectional linear attention over `blocks` blocks of rows."""
    alt = (
        "State pass: one program a head loops over the blocks of k and v, and adds φ(k)ᵀ v to S "
        "and the sum of φ(k) to z, both on the chip; then it stores them. Output pass: for each "
        "block of q another program loads S and z and stores a block of o."
    )
    s, size, left = Sketch("two-passes"), 44, 70
    right = left + blocks * size
    chip = right + 80
    s.text(0, 18, "State pass: one program a head visits all blocks", size=17)
    for row, name in enumerate("kv"):
        s.text(left - 14, 66 + row * 52, name, "end", 17)
        for b in range(blocks):
            s.box(left + b * size, 38 + row * 52, size - 4, size, PALETTE[0], str(b), 17)
    s.arrow(right, 86, chip - 8, 86)
    s.box(chip, 44, 90, 84, PALETTE[2], "S, z", 17)
    s.text(chip + 45, 150, "on the chip", "middle", 17)
    s.text(0, 208, "Output pass: one program a block", size=17)
    for row, name in enumerate("qo"):
        s.text(left - 14, 256 + row * 96, name, "end", 17)
        for b in range(blocks):
            color = PALETTE[(0, 1, 6, 4)[b % 4]]
            s.box(left + b * size, 228 + row * 96, size - 4, size, color, str(b), 17)
            if row:
                middle = left + b * size + size / 2 - 2
                s.arrow(middle, 274, middle, 318)
    s.box(chip, 254, 90, 84, PALETTE[2], "S, z", 17)
    s.text(chip + 45, 358, "from memory", "middle", 17)
    s.arrow(chip - 2, 296, right + 8, 296)
    s.arrow(chip + 45, 158, chip + 45, 248)
    return s.drawing(chip + 112, 380, alt)
