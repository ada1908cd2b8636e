"""Figures of the benchmark clinic: who does what while a clock runs, how wrong the cases are."""

from . import style, tables
from .diagrams import PALETTE
from .figures import LEGEND, TEMPLATE, Figure, Switch, by_gpu
from .studies import Study

NAMES = {
    "asynchronous": "1 the launch",
    "warm_cache": "2 the cache",
    "tuning": "3 the tuning",
    "drift": "4 the drift",
    "wrong_bytes": "5 the bytes",
    "unverified": "6 the result",
}
ISSUE, RUN, FLUSH = 1.0, 4.0, 3.0  # lengths in a drawing, without a unit


def timeline(calls: int = 3) -> Figure:
    """Host and GPU over time for four ways to place a clock, with where it starts and stops."""
    issue = [("host", i * ISSUE, ISSUE, "issue a call") for i in range(calls)]
    run = [("GPU", ISSUE + i * RUN, RUN, "a call runs") for i in range(calls)]
    end = ISSUE + calls * RUN
    slow = [("host", i * RUN, RUN, "issue a call") for i in range(calls)]
    short = [("GPU", (i + 1) * RUN, ISSUE, "a call runs") for i in range(calls)]
    held = [
        ("host", 0, ISSUE, "flush and hold"),
        ("host", 2 * ISSUE, RUN, "issue a call"),
        ("GPU", ISSUE, FLUSH, "flush and hold"),
        ("GPU", ISSUE + FLUSH, 3 * ISSUE, "flush and hold"),
        ("GPU", ISSUE + FLUSH + 3 * ISSUE, ISSUE, "a call runs"),
    ]
    panels = {
        "host clock, no synchronization": (issue + run, 0, calls * ISSUE),
        "host clock, synchronized": (issue + run, 0, end),
        "events, short kernels": (slow + short, RUN, calls * RUN + ISSUE),
        "the bench: flush, hold, events": (held, FLUSH + 4 * ISSUE, FLUSH + 5 * ISSUE),
    }
    alts = {
        "0": "The clock stops when all calls are issued; the GPU has only begun to run them.",
        "1": "The clock stops when the last call has run.",
        "2": "Issuing a call takes longer than running it: between the two events the GPU mostly "
        "waits for the host.",
        "3": "A flush and a hold occupy the GPU while the host issues the call; the events "
        "enclose the call alone.",
    }
    colors = {"issue a call": PALETTE[1], "a call runs": PALETTE[0], "flush and hold": style.GREY}
    data = []
    for i, (work, start, stop) in enumerate(panels.values()):
        for name, color in colors.items():
            mine = [(lane, at, length) for lane, at, length, what in work if what == name]
            if not mine:
                continue
            data.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": name,
                    "y": [lane for lane, _, _ in mine],
                    "base": [at for _, at, _ in mine],
                    "x": [length for _, _, length in mine],
                    "width": 0.5,
                    "marker": {"color": color, "line": {"color": "#ffffff", "width": 1}},
                    "hoverinfo": "name",
                    "meta": [i],
                    "visible": i == 0,
                }
            )
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": "what the clock reads",
                "x": [start, stop],
                "y": ["clock", "clock"],
                "line": {"color": PALETTE[2], "width": 4},
                "marker": {"symbol": "line-ns-open", "size": 18, "color": PALETTE[2]},
                "hoverinfo": "name",
                "meta": [i],
                "visible": i == 0,
            }
        )
    layout = {
        "height": 300,
        "template": TEMPLATE,
        "margin": {"l": 56, "r": 12, "t": 8, "b": 96},
        "barmode": "overlay",
        "legend": LEGEND | {"y": -0.35},
        "xaxis": {"title": {"text": "time"}, "showticklabels": False, "zeroline": False},
        "yaxis": {
            "type": "category",
            "categoryorder": "array",
            "categoryarray": ["clock", "GPU", "host"],
        },
    }
    switch = Switch("Clock", list(panels))
    return Figure(data, layout, alts, [switch], {}, "Drawn, not measured.")


def factors(shown: list[Study]) -> Figure | tables.Table:
    """By how much each wrong measurement misses; a switch chooses the GPU."""
    return by_gpu(shown, _factors)


def _factors(study: Study) -> Figure | None:
    rows = {r["case"]: r for r in study.rows if r["status"] == "ok"}
    cases = [c for c in NAMES if c in rows]
    if not cases:
        return None
    values = [rows[c]["factor"] for c in cases]
    source = style.sentence(study.line)
    stems = {
        "type": "scatter",
        "mode": "lines+markers",
        # a stem for each case, from 1 (right) to what was found
        "x": [x for c in cases for x in (NAMES[c], NAMES[c], None)],
        "y": [y for v in values for y in (1, v, None)],
        "name": "right / wrong",
        "line": {"color": PALETTE[1], "width": 4},
        "marker": {"color": PALETTE[1], "size": [s for _ in cases for s in (4, 12, 0)]},
        "hovertemplate": "%{x}: %{y:.3g}<extra></extra>",
        "meta": [],
    }
    said = [f"{NAMES[c]} {style.number(v)}" for c, v in zip(cases, values, strict=True)]
    alt = f"How many times too fast the wrong measurement looks: {', '.join(said)}."
    body = []
    for c in cases:
        beside = "second_ms" if c == "drift" else "right_ms"  # a product that should take as long
        cells = (style.number(rows[c][column]) for column in ("wrong_ms", beside, "factor"))
        body.append([NAMES[c], *cells])
    head = ["case", "wrong [ms]", "beside [ms]", "times too fast"]
    note = f"Beside: the right time; of the drift the second product. {source}"
    layout = {
        "height": 360,
        "template": TEMPLATE,
        "margin": {"l": 64, "r": 12, "t": 8, "b": 72},
        "showlegend": False,
        "xaxis": {"type": "category"},
        "yaxis": {
            "title": {"text": "times too fast"},
            "type": "log",
            "tickvals": [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100],
        },
    }
    return Figure([stems], layout, {"": alt}, [], {"": tables.Table(head, body, note)}, source)
