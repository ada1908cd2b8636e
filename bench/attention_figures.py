"""Figures of softmax attention: maps of its weights, and what is multiplied with what.

Maps use the format of `bench.figures`; drawings, as in `bench.diagrams`, are SVG in the text colour
of the page.
"""

import itertools

from .diagrams import PALETTE, Drawing, Sketch
from .figures import TEMPLATE, Figure, Switch

# Weights 0 to 1: from nothing to a blue that the text of a light and of a dark page reads on.
SHADES = [[0, "rgba(42, 147, 213, 0)"], [1, "rgba(42, 147, 213, 0.85)"]]


def weight_maps(tokens: list[str], maps: dict, *, switches: dict[str, list], source="") -> Figure:
    """Weights of every query for every key, one map at a time; switches choose which.

    `switches` maps the name of a switch to its options, and `maps` has one [N][N] list of weights
    for each combination of options: (option of the first switch, …) → weights. A weight that is
    None was masked; its cell stays empty.
    """
    data, alts = [], {}
    for at in itertools.product(*(range(len(options)) for options in switches.values())):
        chosen = tuple(options[i] for i, options in zip(at, switches.values(), strict=True))
        weights = maps[chosen]
        shown = {"meta": list(at), "visible": not any(at)}
        data.append(
            {
                "type": "heatmap",
                "x": tokens,
                "y": tokens,
                "z": weights,
                "colorscale": SHADES,
                "zmin": 0,
                "zmax": 1,
                "showscale": False,
                "xgap": 2,
                "ygap": 2,
                "hoverongaps": False,
                "hovertemplate": "%{y} looks at %{x}: %{z:.3f}<extra></extra>",
            }
            | shown
        )
        # a heatmap's own text would take its colour from the cell, as if the page were white
        cells = [(i, j) for i, row in enumerate(weights) for j, w in enumerate(row)]
        data.append(
            {
                "type": "scatter",
                "mode": "text",
                "x": [tokens[j] for _, j in cells],
                "y": [tokens[i] for i, _ in cells],
                "text": ["" if weights[i][j] is None else f"{weights[i][j]:.2f}" for i, j in cells],
                "hoverinfo": "skip",
                "showlegend": False,
            }
            | shown
        )
        words = "; ".join(f"{tokens[i]}: {_most(tokens, row)}" for i, row in enumerate(weights))
        names = ", ".join(f"{n} {c}" for n, c in zip(switches, chosen, strict=True))
        alts[",".join(map(str, at))] = f"{names}. The largest weight of each query: {words}."
    axis = {"showgrid": False, "zeroline": False, "type": "category"}
    layout = {
        "height": 400,
        "template": TEMPLATE,
        "margin": {"l": 84, "r": 12, "t": 8, "b": 64},
        "xaxis": axis | {"title": {"text": "key"}, "fixedrange": True},
        "yaxis": axis
        | {"title": {"text": "query", "standoff": 16}, "autorange": "reversed", "fixedrange": True},
    }
    selects = [Switch(name, list(options)) for name, options in switches.items()]
    return Figure(data, layout, alts, selects, {}, source)


def _most(tokens: list[str], row: list) -> str:
    """The key with the largest weight, and that weight."""
    seen = [(w, j) for j, w in enumerate(row) if w is not None]
    if not seen:
        return "nothing"
    weight, j = max(seen, key=lambda pair: (pair[0], -pair[1]))
    return f"{tokens[j]} {weight:.2f}"


def data_flow(n: int = 150, d: int = 40) -> Drawing:
    """Attention as two matrix products; N and D are drawn `n` and `d` units long."""
    alt = (
        "Scores, N by N, are q, N by D, times k transposed, D by N. Softmax of each row makes of "
        "them weights, N by N. Weights times v, N by D, are o, N by D. The two squares have "
        "sides of N; everything else is N by D."
    )
    s, gap, left, top = Sketch("flow"), 46, 8, 40

    def matrix(x, y, w, h, name, shape, color):
        s.box(x, y, w, h, color, name, 17)
        s.text(x + w / 2, y - 9, shape, "middle", 14)

    second = top + n + 74
    third = left + n + gap
    matrix(left, top, n, n, "scores", "N × N", PALETTE[0])
    s.text(left + n + gap / 2, top + n / 2 + 6, "=", "middle", 22)
    matrix(third, top, d, n, "q", "N × D", PALETTE[1])
    s.text(third + d + gap / 2, top + n / 2 + 6, "·", "middle", 26)
    last = third + d + gap
    matrix(last, top + (n - d) / 2, n, d, "kᵀ", "D × N", PALETTE[1])
    s.arrow(left + n / 2, top + n + 4, left + n / 2, second - 30)
    s.text(left + n / 2 + 12, top + n + 28, "softmax of each row", size=17)
    matrix(left, second, n, n, "weights", "N × N", PALETTE[0])
    s.text(left + n + gap / 2, second + n / 2 + 6, "·", "middle", 26)
    matrix(third, second, d, n, "v", "N × D", PALETTE[1])
    s.text(third + d + gap / 2, second + n / 2 + 6, "=", "middle", 22)
    matrix(last, second, d, n, "o", "N × D", PALETTE[2])
    return s.drawing(last + n + 8, second + n + 8, alt)
