"""Figures of linear attention: two orders of one product, chunks of a matrix, the explorer.

They use the format and the look of `bench.figures` and `bench.diagrams`.
"""

import html
import itertools
import json
import math
from dataclasses import dataclass, field

from . import style
from .attention_figures import SHADES
from .chunks import cost
from .diagrams import PALETTE, Drawing, Sketch
from .figures import AXIS, LEGEND, TEMPLATE, Figure, Switch
from .studies import Study
from .tables import Table


def associativity(n: int = 112, d: int = 36) -> Drawing:
    """The two orders of φ(q) φ(k)ᵀ v; N and D are drawn `n` and `d` units long."""
    alt = (
        "Above: φ(q), N by D, times φ(k) transposed, D by N, gives weights, N by N; times v, N by "
        "D. Below: φ(k) transposed, D by N, times v, N by D, gives the state S, D by D; φ(q) times "
        "S. Both give the same numerators, N by D. The square of side N is only in the first."
    )
    s = Sketch("associativity")

    def matrix(x, y, w, h, name, shape, color):
        s.box(x, y, w, h, color, name, 17 if w > 40 or len(name) == 1 else 14)
        s.text(x + w / 2, y - 9, shape, "middle", 14)

    def row(top, height, title, items):
        """Items are (width, height, name, shape, color), or text that stands between."""
        s.text(8, top - 36, title, size=17)
        x, middle = 8, top + height / 2
        for item in items:
            if isinstance(item, str):
                symbol = len(item) == 1
                if symbol:
                    s.text(x + 19, middle + 7, item, "middle", 24)
                else:
                    s.text(x + 8, middle + 6, item)
                x += 38 if symbol else 96
                continue
            w, h, *rest = item
            # a shape is wider than a narrow matrix
            pad = max(0, (50 - w) / 2)
            matrix(x + pad, middle - h / 2, w, h, *rest)
            x += w + 2 * pad
        return x

    query = (d, n, "φ(q)", "N × D", PALETTE[1])
    key = (n, d, "φ(k)ᵀ", "D × N", PALETTE[1])
    value = (d, n, "v", "N × D", PALETTE[1])
    out = (d, n, "", "N × D", PALETTE[2])
    weights = (n, n, "weights", "N × N", PALETTE[0])
    state = (d, d, "S", "D × D", PALETTE[0])
    top, step = 66, n + 46
    ends = [row(top, n, "First the pairs", [query, "·", key, "=", weights])]
    ends.append(row(top + step, n, "", [weights, "·", value, "=", out, "numerators"]))
    top += 34
    ends.append(row(top + 2 * step, n, "First the state", [key, "·", value, "=", state]))
    ends.append(row(top + 3 * step, n, "", [query, "·", state, "=", out, "numerators"]))
    return s.drawing(max(ends) + 8, top + 3 * step + n + 8, alt)


# Colours of a tiling: not allowed, through a state, multiplied out
TILES = ("rgba(128, 128, 128, 0.12)", PALETTE[1], PALETTE[0])


def tilings(n: int = 16) -> Figure:
    """How each pair of `n` tokens is accounted for, for each chunk size; a switch chooses it."""
    data, alts, options = [], {}, []
    sizes = [2**i for i in range(n.bit_length())]
    names = ["later key: left out", "through the state", "multiplied out"]
    for i, chunk in enumerate(sizes):
        kind = [
            [0 if k > q else 2 if k // chunk == q // chunk else 1 for k in range(n)]
            for q in range(n)
        ]
        words = [[names[c] for c in row] for row in kind]
        data.append(
            {
                "type": "heatmap",
                "x": list(range(n)),
                "y": list(range(n)),
                "z": kind,
                "text": words,
                "hovertemplate": "query %{y}, key %{x}: %{text}<extra></extra>",
                "colorscale": [[j / 2, c] for j, c in enumerate(TILES)],
                "zmin": 0,
                "zmax": 2,
                "showscale": False,
                "xgap": 1,
                "ygap": 1,
                "meta": [i],
                "visible": i == 0,
            }
        )
        flat = list(itertools.chain(*kind))
        form = {1: ", recurrent", n: ", parallel"}.get(chunk, "")
        states = n // chunk - 1
        passes = f"{states} {'state' if states == 1 else 'states'} handed on"
        alts[str(i)] = (
            f"Chunks of {chunk}{form}: {flat.count(2)} pairs of query and key are multiplied out, "
            f"{flat.count(1)} are accounted for by the state, and {passes}."
        )
        options.append(f"{chunk}{form}: {passes}")
    for name, color in zip(names[1:], TILES[1:], strict=True):
        marker = {"color": color, "symbol": "square", "size": 11}
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": name, "x": [None], "y": [None],
                "marker": marker, "meta": [None], "visible": True, "showlegend": True,
            }
        )  # fmt: skip
    axis = {"showgrid": False, "zeroline": False, "fixedrange": True, "dtick": 1}
    layout = {
        "height": 430,
        "template": TEMPLATE,
        "margin": {"l": 56, "r": 12, "t": 8, "b": 56},
        "legend": LEGEND | {"y": -0.2},
        "xaxis": axis | {"title": {"text": "key"}, "constrain": "domain"},
        "yaxis": axis
        | {
            "title": {"text": "query"},
            "autorange": "reversed",
            "scaleanchor": "x",
            "constrain": "domain",
        },
    }
    return Figure(data, layout, alts, [Switch("Chunk size C", options)], {}, "")


def maps(pictures: dict, *, switches: dict[str, list], alts: dict, source: str = "") -> Figure:
    """Weights of every query for every key as shades alone, each row scaled by its largest.

    `pictures` has one [N][N] list of weights for each combination of the options in `switches`,
    and `alts` one text.
    """
    data, texts = [], {}
    for at in itertools.product(*(range(len(options)) for options in switches.values())):
        chosen = tuple(options[i] for i, options in zip(at, switches.values(), strict=True))
        rows = pictures[chosen]
        shades = [[round(100 * max(w, 0) / max(max(row), 1e-9)) for w in row] for row in rows]
        data.append(
            {
                "type": "heatmap",
                "z": shades,
                "hovertemplate": "query %{y}, key %{x}: %{z} % of the query's largest weight"
                "<extra></extra>",
                "colorscale": SHADES,
                "zmin": 0,
                "zmax": 100,
                "showscale": False,
                "meta": list(at),
                "visible": not any(at),
            }
        )
        texts[",".join(map(str, at))] = alts[chosen]
    axis = {"showgrid": False, "zeroline": False, "fixedrange": True, "constrain": "domain"}
    layout = {
        "height": 400,
        "template": TEMPLATE,
        "margin": {"l": 56, "r": 12, "t": 8, "b": 64},
        "xaxis": axis | {"title": {"text": "key"}},
        "yaxis": axis | {"title": {"text": "query"}, "autorange": "reversed", "scaleanchor": "x"},
    }
    selects = [Switch(name, list(options)) for name, options in switches.items()]
    return Figure(data, layout, texts, selects, {}, source)


# ------------------------------------------------------------------------------ the explorer

SLIDER_SCRIPT = """
if (!window.bookExplorer) {
  window.bookExplorer = true;
  const move = (figure) => {
    const range = figure.querySelector("input[type=range]");
    const texts = JSON.parse(figure.querySelector(".book-explorer script").textContent);
    const choice = [...figure.querySelectorAll(".book-switch select")].map((s) => s.value);
    const said = texts[choice.join(",")][range.value];
    figure.querySelector(".book-explorer output").textContent = said;
    range.setAttribute("aria-valuetext", said);
    const plot = figure.querySelector(".book-plotly");
    const line = {};
    plot.layout.shapes.forEach((_, i) => {
      line[`shapes[${i}].x0`] = line[`shapes[${i}].x1`] = +range.value;
    });
    window.Plotly.relayout(plot, line);
  };
  const heard = (event) => {
    const figure = event.target.closest(".book-figure");
    if (figure && figure.querySelector(".book-explorer")) move(figure);
  };
  document.addEventListener("input", heard);
  document.addEventListener("change", heard);
}
"""


@dataclass
class Explorer(Figure):
    """A figure with a slider: `steps` are its labels, `readings` a text for each choice and step.

    The slider moves the lines of `layout["shapes"]` along x = 0, 1, 2, …
    """

    steps: list[str] = field(default_factory=list)
    readings: dict[str, list[str]] = field(default_factory=dict)
    start: int = 0
    slider: str = ""

    def html(self) -> str:
        """The slider, then the figure."""
        first = next(iter(self.readings.values()))[self.start]
        texts = json.dumps(self.readings).replace("</", "<\\/")
        control = (
            '<div class="book-explorer"><label style="display: flex; gap: 0.6em; '
            f'align-items: center">{html.escape(self.slider)} '
            f'<input type="range" min="0" max="{len(self.steps) - 1}" step="1" '
            f'value="{self.start}" autocomplete="off" style="flex: 1; min-width: 0" '
            f'aria-valuetext="{html.escape(first)}"></label>'
            '<output style="display: block; padding-top: 0.4em; '
            # room for the longest text, so that the figure does not jump
            f'min-height: clamp(3.4em, 11em - 8vw, 7.8em)">{html.escape(first)}</output>'
            f'<script type="application/json">{texts}</script></div>'
            f"<script>{SLIDER_SCRIPT}</script>"
        )
        return (
            super()
            .html()
            .replace('<div class="book-plotly"', f'{control}<div class="book-plotly"', 1)
        )


PANELS = ("10⁹ FLOPs", "moved [MiB]", "held [MiB]", "time [ms]")


def explorer(shown: dict[str, tuple[Study, float]]) -> Explorer:
    """FLOPs, bytes, memory and time of causal linear attention over the chunk size.

    `shown` maps a GPU to its study named chunk-size and to the bandwidth [B/s] that turns the
    counted bytes into a prediction.
    """
    every = [study for study, _ in shown.values()]
    sizes = sorted({r["D"] for s in every for r in s.rows}, key=lambda D: (D != 64, D))
    first = every[0].rows[0]
    N, tokens = first["N"], first["B"] * first["H"] * first["N"]
    steps = [2**i for i in range(N.bit_length())]
    data, alts, readings, numbers = [], {}, {}, {}
    states = itertools.product(enumerate(shown.items()), enumerate(sizes))
    for (g, (gpu, (study, bandwidth))), (i, D) in states:
        key = [g, i]
        counted = {c: cost(D, c) for c in steps}
        found = {
            form: {r["chunk"]: r for r in study.select(form=form, D=D, status="ok")}
            for form in ("at-once", "in-turn", "kernel", "copy")
        }

        def line(panel, label, look, points, key=key, dots=True):
            """One line of one panel; `points` maps a chunk size to a value."""
            drawn = style.look(look)
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers" if dots else "lines",
                    "name": label,
                    "legendgroup": label,
                    "showlegend": (label, key) not in [(t["name"], t["meta"]) for t in data],
                    "x": [math.log2(c) for c in points],
                    "y": list(points.values()),
                    "yaxis": f"y{panel + 1}" if panel else "y",
                    "xaxis": "x",
                    "hovertemplate": f"{label}: %{{y:.3g}}<extra></extra>",
                    "line": {"color": drawn.color, "dash": drawn.dash, "width": 2},
                    "marker": {"color": drawn.color, "symbol": drawn.symbol, "size": 6},
                    "meta": key,
                    "visible": key == [0, 0],
                }
            )

        parts = [
            (0, tokens / 1e9, "state_flops", "pair_flops", "flops"),
            (1, tokens / 2**20, "state_bytes", "pair_bytes", "bytes"),
            (2, tokens / 2**20, "state_held", "pair_held", "held"),
        ]
        for panel, unit, state, pair, both in parts:
            for label, look, name in (
                ("states, counted", "sdpa-flash", state),
                ("pairs, counted", "sdpa-cudnn", pair),
                ("all, counted", "eager", both),
            ):
                values = {c: unit * getattr(counted[c], name) for c in steps}
                line(panel, label, look, values, dots=False)
        predicted = {c: 1e3 * tokens * counted[c].bytes / bandwidth for c in steps}
        line(3, "all, counted", "eager", predicted, dots=False)
        at_once, in_turn = found["at-once"], found["in-turn"]
        peaks = {c: at_once[c]["peak_MiB"] for c in sorted(at_once)}
        line(2, "measured, all chunks at once", "book", peaks)
        times = {c: at_once[c]["median_ms"] for c in sorted(at_once)}
        line(3, "measured, all chunks at once", "book", times)
        turns = {c: in_turn[c]["median_ms"] for c in sorted(in_turn)}
        peaks = {c: in_turn[c]["peak_MiB"] for c in sorted(in_turn)}
        if turns:
            line(2, "measured, one after another", "in-turn", peaks)
            line(3, "measured, one after another", "in-turn", turns)
        kernel = next(iter(found["kernel"].values()), None)
        copy = next(iter(found["copy"].values()), None)
        for label, look, row in (
            ("the book's kernel", "fused", kernel),
            ("copy of q, k, v, o", "floor", copy),
        ):
            if row is not None:
                if row.get("peak_MiB"):
                    flat = dict.fromkeys((steps[0], steps[-1]), row["peak_MiB"])
                    line(2, label, look, flat, dots=False)
                flat = dict.fromkeys((steps[0], steps[-1]), row["median_ms"])
                line(3, label, look, flat, dots=False)

        best = min(times, key=times.get, default=None)
        ends = "nothing was measured"
        if best is not None:
            ends = (
                f"measured, the least time is {style.number(times[best])} ms at C = {best}, with "
                f"{style.number(times[max(times)])} ms at C = {max(times)} and "
                f"{style.number(times[min(times)])} ms at C = {min(times)}"
            )
        choice = f"{g},{i}"
        alts[choice] = (
            f"{gpu}, D = {D}: FLOPs grow with C, bytes and memory are large at both ends and least "
            f"near C = {min(steps, key=lambda c: counted[c].bytes)}; {ends}."
        )
        caption = f"Time [ms], D = {D}; {study.line}."
        body = [
            [style.length(c), *(style.number(r and r["median_ms"]) for r in rows)]
            for c, *rows in ((c, at_once.get(c), in_turn.get(c)) for c in steps)
            if any(rows)
        ]
        if not body:
            caption = f"Nothing was measured for D = {D}; {study.line}."
        columns = ["chunk size C", "all chunks at once", "one after another"]
        numbers[choice] = Table(columns, body, caption)
        readings[choice] = [
            _reading(c, N, D, tokens, counted[c], at_once.get(c), in_turn.get(c)) for c in steps
        ]

    decades = [10.0**e for e in range(-4, 7)]
    ticked = range(0, len(steps), 2)
    layout = {
        "height": 860,
        "template": TEMPLATE,
        "margin": {"l": 70, "r": 12, "t": 8, "b": 150},
        "hovermode": "x",
        "legend": LEGEND | {"y": -0.08},
        "xaxis": AXIS
        | {
            "title": {"text": "chunk size C"},
            "tickvals": list(ticked),
            "ticktext": [style.length(steps[j]) for j in ticked],
            "range": [-0.3, len(steps) - 0.7],
            "anchor": "y4",
        },
        "shapes": [
            {
                "type": "line", "xref": "x", "yref": "paper", "x0": 6, "x1": 6, "y0": 0, "y1": 1,
                "line": {"color": style.GREY, "width": 1.5, "dash": "dot"},
            }
        ],
    }  # fmt: skip
    for panel, title in enumerate(PANELS):
        top = 1 - panel * 0.255
        layout[f"yaxis{panel + 1}" if panel else "yaxis"] = AXIS | {
            "title": {"text": title},
            "type": "log",
            "domain": [max(0, top - 0.225), top],
            "tickvals": decades,
            "ticktext": [style.number(d) for d in decades],
            "anchor": "x",
        }
    source = (
        "At the bottom, counted is the time that the counted bytes would take. All other lines are "
        f"measured, kernel and copy once and drawn across; {'; '.join(s.line for s in every)}."
    )
    return Explorer(
        data,
        layout,
        alts,
        [Switch("GPU", list(shown)), Switch("Head size", [f"D = {D}" for D in sizes])],
        numbers,
        source,
        steps=[str(c) for c in steps],
        readings=readings,
        start=6,
        slider="Chunk size C",
    )


def _reading(c, N, D, tokens, counted, at_once, in_turn) -> str:
    """What stands beside the slider at chunk size `c`."""
    name = {1: ", the recurrent form", N: ", the parallel form"}.get(c, "")
    share = counted.pair_flops / counted.flops
    chunks = N // c
    text = (
        f"C = {style.length(c)}{name}: {style.length(chunks)} "
        f"{'chunk' if chunks == 1 else 'chunks'}. Pairs take {100 * share:.0f} percent of "
        f"{style.number(tokens * counted.flops / 1e9)}\u00a0·\u00a010⁹ FLOPs. "
        f"All states together hold {tokens * counted.state_held / 2**20:g}\u00a0MiB, "
        f"all weights {tokens * counted.pair_held / 2**20:g}\u00a0MiB. "
    )
    said = [
        f"{style.number(row['median_ms'])}\u00a0ms {how}"
        for how, row in (("all at once", at_once), ("one after another", in_turn))
        if row is not None
    ]
    return text + (f"Measured: {' and '.join(said)}." if said else "Not measured.")
