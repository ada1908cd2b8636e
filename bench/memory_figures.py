"""Figures of the memory: axes of bytes, maps of words, and the levels as a drawing.

They use the format and the look of `bench.figures` and `bench.diagrams`.
"""

import math

from . import style
from .diagrams import PALETTE, Axis, Drawing, Sketch
from .figures import AXIS, LEGEND, TEMPLATE, Figure, Switch

KIB, MIB, GIB = 2**10, 2**20, 2**30


def size(nbytes: float) -> str:
    """Bytes in binary units with three digits: 512 B, 16 KiB, 1.5 GiB."""
    for unit, of in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if nbytes >= of:
            return f"{style.number(nbytes / of)}\u00a0{unit}"
    return f"{style.number(nbytes)}\u00a0B"


def bytes_axis(title: str, low: float, high: float, every: int = 4) -> Axis:
    """A logarithmic axis of bytes from `low` to `high`, a tick at every `every`-th power of two."""
    powers = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
    return Axis(title, True, {2**p: size(2**p) for p in powers if p % every == 0}, text=size)


def decades_axis(title: str, low: float, high: float) -> Axis:
    """A logarithmic axis with a tick at every power of ten around `low` to `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return Axis(title, True, {10.0**p: style.number(10.0**p) for p in powers})


LEVELS = ("rgba(128, 128, 128, 0.12)", "#2A93D5", "#D55E00")


def word_map(
    panels: dict[str, list[list[int]]],
    names: tuple[str, str],
    *,
    x: str,
    y: str,
    alts: list[str],
    switch: str,
    source: str = "",
    height: int = 340,
) -> Figure:
    """Words of memory as a grid: 0 is left alone, 1 and 2 are what `names` says.

    The cells have no text; where they lie is read off the axes, whose titles are `x` and `y`.
    """
    data = []
    for i, grid in enumerate(panels.values()):
        data.append(
            {
                "type": "heatmap",
                "z": grid,
                "colorscale": [[0, LEVELS[0]], [0.5, LEVELS[1]], [1, LEVELS[2]]],
                "zmin": 0,
                "zmax": 2,
                "showscale": False,
                "xgap": 1,
                "ygap": 1,
                "hovertemplate": f"{x} %{{x}}, {y} %{{y}}<extra></extra>",
                "meta": [i],
                "visible": i == 0,
            }
        )
    for level, name in enumerate(names, 1):
        if name:
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": [None],
                    "y": [None],
                    "name": name,
                    "marker": {"color": LEVELS[level], "symbol": "square", "size": 10},
                    "meta": [None],
                    "visible": True,
                }
            )
    plain = {"showgrid": False, "zeroline": False, "fixedrange": True}
    layout = {
        "height": height,
        "template": TEMPLATE,
        "margin": {"l": 64, "r": 12, "t": 8, "b": 96},
        "legend": LEGEND,
        "showlegend": True,
        "xaxis": plain | {"title": {"text": x}, "dtick": 8},
        "yaxis": plain | {"title": {"text": y}, "autorange": "reversed"},
    }
    texts = {str(i): alt for i, alt in enumerate(alts)}
    return Figure(data, layout, texts, [Switch(switch, list(panels))], {}, source)


LANES = 32
WORD, SECTOR, LINE = 4, 32, 128  # bytes


def sectors(addresses: list[int], nbytes: int = WORD) -> set[int]:
    """The numbers of the sectors in which the bytes from each of `addresses` on lie."""
    return {a // SECTOR for start in addresses for a in (start, start + nbytes - 1)}


def warp_map(strides: dict[str, tuple[int, int]], rows: int = 8) -> Figure:
    """Which words of the first lines of memory a warp asks for, and which sectors that fetches.

    `strides` maps an option to (distance of the lanes' words, first word).
    """
    panels, alts = {}, []
    for name, (step, first) in strides.items():
        asked = [first + lane * step for lane in range(LANES)]
        fetched = sectors([WORD * w for w in asked])
        per = SECTOR // WORD
        panels[name] = [
            [
                2 if (w := r * LINE // WORD + c) in asked else int(w // per in fetched)
                for c in range(LINE // WORD)
            ]
            for r in range(rows)
        ]
        shown = sum(w < rows * LINE // WORD for w in asked)
        alts.append(
            f"{name}: 32 lanes ask for 32 words, 128 bytes, in {len(fetched)} sectors, "
            f"{len(fetched) * SECTOR} bytes; {shown} of the words lie in the part that is drawn."
        )
    return word_map(
        panels,
        ("fetched, not asked for", "asked for"),
        x="word of 4 bytes",
        y="line of 128 bytes",
        alts=alts,
        switch="Lanes read",
        source="Drawn by counting: 8 words are a sector, 4 sectors are a line.",
    )


def tile_map(layouts: dict[str, list[list[int]]], column: int = 5) -> Figure:
    """Where the elements of one column of a tile lie in shared memory, by layout.

    `layouts` maps an option to a tile of word numbers: [row][column] → word.
    """
    panels, alts = {}, []
    for name, tile in layouts.items():
        words = [row[column] for row in tile]
        last = max(w for row in tile for w in row)
        grid = [[0] * LANES for _ in range(last // LANES + 1)]
        for w in words:
            grid[w // LANES][w % LANES] = 2
        panels[name] = grid
        turns = max(sum(w % LANES == bank for w in words) for bank in range(LANES))
        alts.append(f"{name}: reading column {column} takes {turns} turns.")
    return word_map(
        panels,
        ("", f"column {column} of the tile"),
        x="bank",
        y="row of 32 words",
        alts=alts,
        switch="Layout",
        source="Drawn by counting: word w of shared memory lies in bank w mod 32.",
        height=420,
    )


def bank_bars(strides: list[int]) -> Figure:
    """How many words each bank has to hand out to a warp that reads every stride-th word."""
    data, alts, options = [], [], []
    for i, step in enumerate(strides):
        words = {lane * step for lane in range(LANES)}
        asked = [sum(w % LANES == bank for w in words) for bank in range(LANES)]
        data.append(
            {
                "type": "bar",
                "x": list(range(LANES)),
                "y": asked,
                "marker": {"color": PALETTE[0]},
                "hovertemplate": "bank %{x}: %{y} words<extra></extra>",
                "showlegend": False,
                "meta": [i],
                "visible": i == 0,
            }
        )
        busy = sum(n > 0 for n in asked)
        options.append(f"{step} ({max(asked)} turn{'s' if max(asked) > 1 else ''})")
        alts.append(f"Stride {step}: {busy} banks hand out {max(asked)} words each.")
    layout = {
        "height": 300,
        "template": TEMPLATE,
        "margin": {"l": 64, "r": 12, "t": 8, "b": 72},
        "bargap": 0.15,
        "xaxis": AXIS | {"title": {"text": "bank"}, "dtick": 8, "showgrid": False},
        "yaxis": AXIS | {"title": {"text": "words to hand out"}, "range": [0, 33]},
    }
    texts = {str(i): alt for i, alt in enumerate(alts)}
    switch = Switch("Stride in words", options)
    source = "Drawn by counting: word w of shared memory lies in bank w mod 32."
    return Figure(data, layout, texts, [switch], {}, source)


def levels(rows: list[tuple[str, str, str]]) -> Drawing:
    """The levels of a GPU's memory from the small and near to the large and far.

    Each row is (name, where it is, how large it is); the boxes widen with every level.
    """
    alt = "From near to far: " + "; ".join(f"{n}, {where}, {how}" for n, where, how in rows) + "."
    width, height, gap = 460, 58, 26
    least = 330
    s, middle = Sketch("level"), width / 2 + 2
    for i, (name, where, how) in enumerate(rows):
        w = least + (width - least) * i / max(1, len(rows) - 1)
        y = 4 + i * (height + gap)
        s.box((width - w) / 2 + 2, y, w, height, PALETTE[(0, 4, 2, 1, 3)[i % 5]])
        s.text(middle, y + 24, name, "middle", 17, bold=True)
        s.text(middle, y + 46, f"{where}: {how}", "middle", 15)
        if i + 1 < len(rows):
            s.arrow(middle, y + height + 3, middle, y + height + gap - 3, both=True)
    return s.drawing(width + 4, 8 + len(rows) * (height + gap) - gap, alt)
