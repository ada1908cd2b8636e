"""Figures in the house style: Plotly on pages, matplotlib for the README.

A figure is plain data in Plotly's format, one `<div>` with JSON in it. The built page draws it by
one shared script, so that it needs no network and no library is copied into each figure.

Switches (GPU, batch, order, work) are ordinary `<select>` elements beside the figure. Each trace
says in `meta` which choice it belongs to, and a change shows the traces that fit all of them.
"""

import html
import itertools
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from . import contenders, data_sheets, style, tables
from .book import SHARED
from .results import Record
from .roofline import FORWARD, FORWARD_BACKWARD

# Colours for where no page sets its own: a built page replaces this by its light or dark theme.
_LINES = {"gridcolor": style.GRID, "linecolor": style.GREY, "tickcolor": style.GREY}
TEMPLATE = {
    "layout": {
        "font": {"family": style.FONT, "color": style.GREY, "size": 13},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "xaxis": _LINES,
        "yaxis": _LINES,
    }
}
# The legend's place counts in plot heights: on a narrow page the legend has more lines and the plot
# is lower, and the title of the x axis still has to fit between them.
MARGIN = {"l": 64, "r": 12, "t": 8, "b": 96}
LEGEND = {"orientation": "h", "x": 0, "y": -0.3, "yanchor": "top"}
AXIS = {"showline": True, "zeroline": False, "ticks": "outside"}
CONFIG = {"responsive": True, "displayModeBar": False}
# A notebook has none of the site's scripts: an output fetches Plotly, and draws what is not drawn.
NOTEBOOK_PLOTLY = "https://cdn.plot.ly/plotly-3.0.1.min.js"
NOTEBOOK_SCRIPT = """
(() => {
  const draw = () => {
    for (const div of document.querySelectorAll(".book-plotly:not(.js-plotly-plot)")) {
      const spec = JSON.parse(div.querySelector("script").textContent);
      window.Plotly.newPlot(div, spec.data, spec.layout, spec.config);
    }
  };
  if (window.Plotly) return draw();
  let library = document.querySelector("script[data-book]");
  if (!library) {
    library = document.createElement("script");
    library.dataset.book = "plotly";
    library.src = "PLOTLY";
    document.head.appendChild(library);
  }
  library.addEventListener("load", draw);
})();
""".replace("PLOTLY", NOTEBOOK_PLOTLY)

SWITCH_SCRIPT = """
if (!window.bookSwitch) {
  window.bookSwitch = true;
  document.addEventListener("change", (event) => {
    const figure = event.target.closest(".book-figure");
    if (!figure || !event.target.matches(".book-switch select:not([data-control])")) return;
    const plot = figure.querySelector(".book-plotly");
    const choice = [...figure.querySelectorAll(".book-switch select")].map((s) => s.value);
    const fits = (t) => t.meta.every((m, i) => m === null || String(m) === choice[i]);
    const alt = plot.layout.meta.alts[choice.join(",")] || "";
    plot.setAttribute("aria-label", alt);
    const title = (plot.layout.meta.y || {})[choice.join(",")];
    const axis = title ? { "yaxis.title.text": title } : {};
    const middle = { xref: "paper", yref: "paper", x: 0.5, y: 0.5, showarrow: false };
    const empty = alt.endsWith(": not measured.");
    axis.annotations = empty ? [{ ...middle, text: "not measured" }] : [];
    window.Plotly.update(plot, { visible: plot.data.map(fits) }, axis);
    for (const numbers of figure.querySelectorAll("[data-choice]")) {
      numbers.hidden = numbers.dataset.choice !== choice.join(",");
    }
  });
}
"""


@dataclass(frozen=True)
class Switch:
    """One choice beside a figure: its name and the options, the first of which shows first."""

    name: str
    options: list[str]


@dataclass
class Figure:
    """A Plotly figure, its switches, and for each choice its alternative text and its table."""

    data: list[dict]
    layout: dict
    alts: dict[str, str]  # "0,1,0" (an option of each switch) → text
    switches: list[Switch] = field(default_factory=list)
    numbers: dict[str, tables.Table] = field(default_factory=dict)
    provenance: str = ""
    y_titles: dict[str, str] = field(default_factory=dict)  # where a choice changes what y is
    unfolded: bool = False  # whether the numbers show at once

    @property
    def alt(self) -> str:
        """The alternative text of what shows first."""
        return next(iter(self.alts.values()))

    def spec(self) -> dict:
        """{"data", "layout", "config"} for `Plotly.newPlot`."""
        meta = {"alts": self.alts} | ({"y": self.y_titles} if self.y_titles else {})
        layout = self.layout | {"meta": meta}
        return {"data": self.data, "layout": layout, "config": CONFIG}

    def plotly(self):
        """The same as a `plotly.graph_objects.Figure`, to change or to save."""
        import plotly.graph_objects as go

        return go.Figure(data=self.data, layout=self.layout)

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        # Without Plotly's own type: JupyterLab would draw that one, and it has no switches.
        return {"text/html": self.html(), "text/plain": repr(self)}

    def __repr__(self) -> str:
        shown = next(iter(self.numbers.values()), "")
        return f"{self.alt}\n{self.provenance}\n{shown}".rstrip()

    def html(self) -> str:
        """Switches, drawing, provenance and the numbers as tables."""
        spec = json.dumps(self.spec(), allow_nan=False, separators=(",", ":"))
        spec = spec.replace("</", "<\\/")
        numbers = "".join(
            f'<div data-choice="{key}"{" hidden" if i else ""}>{table._repr_html_()}</div>'
            for i, (key, table) in enumerate(self.numbers.items())
        )
        if numbers:
            numbers = (
                f'<details class="book-numbers"{" open" if self.unfolded else ""}>'
                f"<summary>The numbers of this figure</summary>{numbers}</details>"
            )
        return (
            f'<div class="book-figure">{self._selects()}'
            f'<div class="book-plotly" role="img" aria-label="{html.escape(self.alt)}" '
            f'style="min-height: {self.layout["height"]}px">'
            f'<script type="application/json">{spec}</script></div>'
            f'<p class="book-provenance">{html.escape(self.provenance)}</p>{numbers}</div>'
            f"{notebook_loader()}"
        )

    def _selects(self) -> str:
        shown = ""
        for s in self.switches:
            # a switch of one option stays as a hidden value, so that positions still match
            hidden = " hidden" if len(s.options) < 2 else ""
            options = "".join(
                f'<option value="{i}">{html.escape(o)}</option>' for i, o in enumerate(s.options)
            )
            shown += (
                f'<label{hidden} style="margin-right: 1em">{html.escape(s.name)} '
                f'<select autocomplete="off">{options}</select></label>'
            )
        if not shown:
            return ""
        return f'<div class="book-switch">{shown}</div><script>{SWITCH_SCRIPT}</script>'


def notebook_loader() -> str:
    """What draws a figure in a notebook: on Colab, in JupyterLab and in VS Code.

    It is empty outside a kernel, and in one of the book's build, whose pages bring their own.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if SHARED in os.environ or not hasattr(shell, "kernel"):
        return ""
    return f"<script>{NOTEBOOK_SCRIPT}</script>"


def by_gpu(measured: list, draw: Callable) -> Figure | tables.Table:
    """The figure that `draw` makes of each study or record, with a switch for the GPU.

    The switches of the single figures keep their place; each has the options that any GPU has. A
    choice that a GPU lacks draws nothing and says so. A GPU of which `draw` makes no figure, or an
    empty one, is left out; of one that is left alone the figure is as `draw` made it.
    """
    drawn = [(one, draw(one)) for one in measured]
    drawn = [(one, f) for one, f in drawn if isinstance(f, Figure) and f.data]
    if not drawn:
        said = "; ".join(one.line for one in measured) or "nothing is recorded"
        return tables.Table(["nothing was measured"], [], said)
    main, first = drawn[0]
    if len(drawn) == 1:
        return first
    switches = [
        Switch(same[0].name, list(dict.fromkeys(o for s in same for o in s.options)))
        for same in zip(*(f.switches for _, f in drawn), strict=True)
    ]
    data, alts, numbers, titles = [], {}, {}, {}
    for g, (one, figure) in enumerate(drawn):
        gpu = one.provenance.gpu
        at = [
            [all_.options.index(option) for option in own.options]
            for all_, own in zip(switches, figure.switches, strict=True)
        ]
        for trace in figure.data:
            own = zip(at, trace["meta"], strict=True) if at else ()
            meta = [g, *(None if i is None else places[i] for places, i in own)]
            data.append(trace | {"meta": meta, "visible": not any(meta)})
        for choice in itertools.product(*(range(len(s.options)) for s in switches)):
            alts[",".join(map(str, (g, *choice)))] = f"{gpu}: not measured."
        kinds = ((alts, figure.alts), (numbers, figure.numbers), (titles, figure.y_titles))
        for texts, own in kinds:
            for key, text in own.items():
                places = [at[i][int(k)] for i, k in enumerate(key.split(","))] if at else []
                text = f"{gpu}: {text}" if texts is alts else text
                texts[",".join(map(str, (g, *places)))] = text
    lines = [one.line for one, _ in drawn]
    alone = style.sentence(main.line)
    if alone in first.provenance:
        source = first.provenance.replace(alone, style.sentence(*lines))
    else:
        source = " ".join(dict.fromkeys(f.provenance for _, f in drawn))
    layout = first.layout | {"height": max(f.layout["height"] for _, f in drawn)}
    switches = [Switch("GPU", names_of([one for one, _ in drawn])), *switches]
    return Figure(data, layout, alts, switches, numbers, source, titles, first.unfolded)


def names_of(measured: list) -> list[str]:
    """The GPU of each study or record, as a switch calls it: with the date where two are alike."""
    names = [f"{one.provenance.gpu} ({'live' if one.live else 'recorded'})" for one in measured]
    dates = [one.provenance.date for one in measured]
    found = []
    for name, date in zip(names, dates, strict=True):
        days = [d[:10] for n, d in zip(names, dates, strict=True) if n == name]
        if len(days) > 1:  # the minute too where the days are alike
            when = date[:10] if days.count(date[:10]) == 1 else f"{date[:16].replace('T', ' ')}"
            name = f"{name[:-1]} {when})"
        while name in found:  # made in the same minute
            name += "'"
        found.append(name)
    return found


# ---------------------------------------------------------------- what all figures here share


def _layout(lengths: list[int], y_title: str, *, log_y: bool = True, height: int = 440) -> dict:
    """Axes over the sequence length, log-log unless said otherwise."""
    decades = [10.0**e for e in range(-4, 6)]
    y = {"title": {"text": y_title}, "rangemode": "tozero"}
    if log_y:
        y = {
            "title": {"text": y_title},
            "type": "log",
            "tickvals": decades,
            "ticktext": [style.number(d) for d in decades],
        }
    return {
        "height": height,
        "template": TEMPLATE,
        "margin": MARGIN,
        "hovermode": "closest",
        "legend": LEGEND,
        "xaxis": AXIS
        | {
            "title": {"text": "sequence length N"},
            "type": "log",
            "tickvals": lengths,
            "ticktext": [style.length(n) for n in lengths],
        },
        "yaxis": AXIS | y,
    }


def _line(name: str, label: str, x, y, hover, meta, visible) -> dict:
    look = style.look(name)
    return {
        "type": "scatter",
        "mode": "lines+markers" if name != "floor" else "lines",
        "name": label,
        "legendgroup": label,
        "x": x,
        "y": y,
        "hovertext": hover,
        "hoverinfo": "text",
        "line": {"color": look.color, "dash": look.dash, "width": 2.5 if name == "book" else 2},
        "marker": {"color": look.color, "symbol": look.symbol, "size": 8},
        "meta": meta,
        "visible": visible,
    }


@dataclass(frozen=True)
class _State:
    """One choice of all switches."""

    key: tuple[int, ...]
    record: Record
    B: int
    causal: bool
    work: str
    gpu: str  # how its alternative text begins: "NVIDIA …: ", or "" where there is only one GPU

    @property
    def shape(self) -> dict:
        return {"B": self.B, "causal": self.causal, "work": self.work}

    @property
    def words(self) -> str:
        return f"B = {self.B}, {style.order(self.causal)}, {style.work_name(self.work)}"


def _states(records: list[Record], work_switch: bool = True) -> tuple[list[Switch], list[_State]]:
    """All choices of GPU, batch, order and work that any of the records has."""
    batches = sorted({b for r in records for b in r.values("B")}, reverse=True)
    orders = sorted({c for r in records for c in r.values("causal")})
    works = sorted({w for r in records for w in r.values("work")}) if work_switch else [FORWARD]
    switches = [
        Switch("GPU", names_of(records)),
        Switch("Batch", [f"B = {b}" for b in batches]),
        Switch("Order", [style.order(c) for c in orders]),
    ]
    if work_switch:
        switches.append(Switch("Work", [style.work_name(w) for w in works]))
    states = []
    for g, record in enumerate(records):
        for b, batch in enumerate(batches):
            for c, causal in enumerate(orders):
                for w, work in enumerate(works):
                    key = (g, b, c, w) if work_switch else (g, b, c)
                    gpu = f"{record.provenance.gpu}: " if len(records) > 1 else ""
                    states.append(_State(key, record, batch, causal, work, gpu))
    return switches, states


def _figure(records, draw, y_title, *, log_y=True, work_switch=True, table=tables.times) -> Figure:
    """A figure of one state at a time; `draw(state)` gives lines and the alternative text.

    A line is (look's name, label, [(N, value, hover text), …]).
    """
    records = records if isinstance(records, list) else [records]
    switches, states = _states(records, work_switch)
    lengths = sorted({n for r in records for n in r.values("N")})
    data, alts, numbers = [], {}, {}
    for state in states:
        lines, alt = draw(state)
        choice = ",".join(map(str, state.key))
        alts[choice] = state.gpu + alt
        for name, label, points in lines:
            if points:
                x, y, hover = (list(column) for column in zip(*points, strict=True))
                first = state.key == states[0].key
                data.append(_line(name, label, x, y, hover, list(state.key), first))
        numbers[choice] = table(state.record, **state.shape)
    layout = _layout(lengths, y_title, log_y=log_y)
    source = style.sentence(*(r.line for r in records))
    return Figure(data, layout, alts, switches, numbers, source)


def _joined(ends: list[str]) -> str:
    return "; ".join(ends) or "not measured"


def _points(state: _State, name: str, value) -> list[tuple]:
    """(N, value(measurement), hover) of a contender's verified measurements that have a value."""
    found = [m for m in state.record.select(contender=name, **state.shape) if m.ok]
    return [
        (
            m.N,
            value(m),
            f"<b>{contenders.label(name)}</b>, N = {style.length(m.N)}<br>"
            f"{style.number(m.median_ms)} ms, {tables.share_cell(m)} of copy speed<br>"
            f"{html.escape(tables.note(m)).replace('; ', '<br>')}",
        )
        for m in sorted(found, key=lambda m: m.N)
        if value(m) is not None
    ]


# ------------------------------------------------------------------------------- the figures


def time_by_length(records) -> Figure:
    """Median time against sequence length, one line a contender, and the copy as the floor."""

    def draw(state):
        lines, ends = [], []
        floor = {m.N: m.floor_ms for m in state.record.select(**state.shape) if m.ok}
        for name in state.record.contenders():
            points = _points(state, name, lambda m: m.median_ms)
            lines.append((name, contenders.label(name), points))
            if points:
                n, ms, _ = points[-1]
                ends.append(
                    f"{contenders.label(name)} {style.number(ms)} ms at N = {style.length(n)}"
                )
        points = [
            (n, ms, f"Copy of the same bytes, N = {style.length(n)}<br>{style.number(ms)} ms")
            for n, ms in sorted(floor.items())
        ]
        lines.append(("floor", "Copy of the same bytes", points))
        return lines, f"Time by sequence length, {state.words}: {_joined(ends)}."

    return _figure(records, draw, "median time [ms]")


def share_of_floor(records) -> Figure:
    """Copy time over time: how near each contender is to the speed of memory."""

    def draw(state):
        lines, ends = [], []
        for name in state.record.contenders():
            points = _points(state, name, tables.share)
            lines.append((name, contenders.label(name), points))
            if points:
                n, share, _ = points[-1]
                ends.append(
                    f"{contenders.label(name)} {style.number(share, 2)} at N = {style.length(n)}"
                )
        return lines, f"Share of copy speed, {state.words}: {_joined(ends)}."

    return _figure(records, draw, "copy time / time", table=shares)


def speedup_by_length(records) -> Figure:
    """How many times faster the book is than the fastest SDPA, forward and with backward."""

    def draw(state):
        lines, ends = [], []
        looks = ((FORWARD, "book"), (FORWARD_BACKWARD, "sdpa-flash"))
        for work, name in looks:
            shape = state.shape | {"work": work}
            points = []
            for n in state.record.values("N"):
                ratio = tables.speedup(state.record, N=n, **shape)
                if ratio is not None:
                    against = tables.fastest_softmax(state.record, N=n, **shape)
                    text = (
                        f"<b>{style.work_name(work)}</b>, N = {style.length(n)}<br>"
                        f"{style.number(ratio)} times, against "
                        f"{contenders.label(against.contender)}"
                    )
                    points.append((n, ratio, text))
            lines.append((name, style.work_name(work), points))
            if points:
                n, ratio, _ = points[-1]
                ends.append(
                    f"{style.work_name(work)} {style.number(ratio)} times at {style.length(n)}"
                )
        words = f"B = {state.B}, {style.order(state.causal)}"
        return lines, f"Speed-up against the fastest SDPA, {words}: {_joined(ends)}."

    return _figure(records, draw, "SDPA time / book time", work_switch=False, table=ratios)


def backward_cost(records) -> Figure:
    """Forward + backward over forward; bytes alone would make it 11 / 4."""

    def draw(state):
        lines, ends = [], []
        for name in state.record.contenders():
            points = []
            for n in state.record.values("N"):
                pair = _pair(state.record, name, n, state.B, state.causal)
                if pair is not None:
                    ratio = pair[1].median_ms / pair[0].median_ms
                    text = (
                        f"<b>{contenders.label(name)}</b>, N = {style.length(n)}<br>"
                        f"forward {style.number(pair[0].median_ms)} ms, "
                        f"with backward {style.number(pair[1].median_ms)} ms"
                    )
                    points.append((n, ratio, text))
            lines.append((name, contenders.label(name), points))
            if points:
                ends.append(f"{contenders.label(name)} {style.number(points[-1][1])}")
        lengths = state.record.values("N")
        text = "Bytes: 11 tensors where the forward moves 4"
        lines.append(("floor", "Bytes alone: 11 / 4", [(n, 11 / 4, text) for n in lengths]))
        words = f"B = {state.B}, {style.order(state.causal)}, at the largest N"
        return lines, f"Forward + backward over forward, {words}: {_joined(ends)}."

    title = "forward + backward / forward"
    return _figure(records, draw, title, log_y=False, work_switch=False, table=costs)


def under_the_roof(records) -> Figure:
    """FLOP/s over FLOPs a byte: each contender by length, under what the data sheet allows."""
    records = records if isinstance(records, list) else [records]
    switches, states = _states(records)
    data, alts, numbers = [], {}, {}
    for state in states:
        key, first = list(state.key), state.key == states[0].key
        choice = ",".join(map(str, key))
        hover = "%{x:.3g} FLOPs a byte: %{y:.3g} TFLOP/s"
        ends, rows = [], []
        for name in state.record.contenders():
            found = [m for m in state.record.select(contender=name, **state.shape) if m.ok]
            found.sort(key=lambda m: m.N)
            if not found:
                continue
            label = contenders.label(name)
            x = [m.flops / m.bytes for m in found]
            y = [m.flops / m.median_ms / 1e9 for m in found]
            words = f"{label}, N = %{{text}}<br>{hover}<extra></extra>"
            text = [style.length(m.N) for m in found]
            line = _line(name, label, x, y, None, key, first)
            data.append(line | {"hovertext": None, "text": text, "hovertemplate": words})
            ends.append(f"{label} {style.number(y[-1])} TFLOP/s at {style.number(x[-1])}")
            rows.append([label, *map(style.number, (x[0], y[0], x[-1], y[-1]))])
        sheet = data_sheets.of(state.record.provenance.gpu)
        if sheet:
            ridge = sheet.matrix / sheet.bandwidth
            x, y = [1, ridge, 1e5], [sheet.bandwidth / 1e12, *[sheet.matrix / 1e12] * 2]
            roof = _line("floor", "data sheet", x, y, None, key, first)
            data.append(roof | {"hovertext": None, "hovertemplate": f"data sheet<br>{hover}"})
        alts[choice] = (
            f"{state.gpu}Under the roof, {state.words}, at the longest N: "
            f"{'; '.join(ends) or 'not measured'} FLOPs a byte."
        )
        columns = ["", "FLOPs a byte, short", "TFLOP/s", "FLOPs a byte, long", "TFLOP/s"]
        caption = f"The shortest and the longest sequence, {state.words}; {state.record.line}."
        numbers[choice] = tables.Table(columns, rows, caption)
    layout = _layout([], "TFLOP/s", height=480)
    decades = [10.0**e for e in range(6)]
    layout["xaxis"] |= {
        "title": {"text": "FLOPs for each byte that has to be moved"},
        "tickvals": decades,
        "ticktext": [style.number(d) for d in decades],
    }
    source = "Bytes and FLOPs are ideal. " + style.sentence(*(r.line for r in records))
    return Figure(data, layout, alts, switches, numbers, source)


def _pair(record: Record, name: str, n: int, B: int, causal: bool):
    pair = [
        record.one(contender=name, N=n, B=B, causal=causal, work=work)
        for work in (FORWARD, FORWARD_BACKWARD)
    ]
    return pair if all(m is not None and m.ok and not m.void for m in pair) else None


def shares(record: Record, *, B: int, causal: bool, work: str = FORWARD) -> tables.Table:
    """The table under `share_of_floor`."""
    names = record.contenders()
    rows = []
    for n in record.values("N"):
        found = [record.one(contender=c, N=n, B=B, causal=causal, work=work) for c in names]
        cells = [tables.share_cell(m) if m and m.ok else tables.cell(m) for m in found]
        rows.append([style.length(n), *cells])
    what = f"B = {B}, {style.order(causal)}, {style.work_name(work)}"
    caption = f"Time of the copy over time, {what}; {record.line}."
    columns = ["N", *map(contenders.label, names)]
    return tables.Table(columns, rows, caption + tables.footnote(rows))


def ratios(record: Record, *, B: int, causal: bool, work: str = FORWARD) -> tables.Table:
    """The table under `speedup_by_length`."""
    rows = []
    for n in record.values("N"):
        row = [style.length(n)]
        for kind in (FORWARD, FORWARD_BACKWARD):
            row.append(tables.ratio(record, N=n, B=B, causal=causal, work=kind))
        rows.append(row)
    what = "Time of the fastest SDPA over time of the book"
    caption = f"{what}, B = {B}, {style.order(causal)}; {record.line}."
    columns = ["N", "forward", "forward + backward"]
    return tables.Table(columns, rows, caption + tables.footnote(rows))


def costs(record: Record, *, B: int, causal: bool, work: str = FORWARD) -> tables.Table:
    """The table under `backward_cost`."""
    names = record.contenders()
    rows = []
    for n in record.values("N"):
        pairs = [_pair(record, name, n, B, causal) for name in names]
        cells = ["–" if p is None else style.number(p[1].median_ms / p[0].median_ms) for p in pairs]
        rows.append([style.length(n), *cells])
    caption = f"Forward + backward over forward, B = {B}, {style.order(causal)}; {record.line}."
    return tables.Table(["N", *map(contenders.label, names)], rows, caption)


# ---------------------------------------------------------------------------- for the README


def headline_image(record: Record, path, *, B: int, work: str = FORWARD) -> str:
    """Draw time by length, bidirectional and causal side by side; returns the alt text.

    `path` ends in .png or .svg. Needs matplotlib. The same record gives the same file.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rc = {
        "text.color": style.GREY,
        "axes.labelcolor": style.GREY,
        "axes.edgecolor": style.GREY,
        "xtick.color": style.GREY,
        "ytick.color": style.GREY,
        "grid.color": style.GREY,
        "grid.alpha": 0.25,
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.hashsalt": "book",
    }
    with plt.rc_context(rc):
        figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True, layout="constrained")
        for axis, causal in zip(axes, (False, True), strict=True):
            shape = {"B": B, "causal": causal, "work": work}
            found = [m for m in record.select(**shape) if m.ok]
            for name in record.contenders():
                points = sorted((m.N, m.median_ms) for m in found if m.contender == name)
                if points:
                    look = style.look(name)
                    axis.plot(
                        *zip(*points, strict=True),
                        label=contenders.label(name),
                        color=look.color,
                        marker=look.mark,
                        linestyle=look.line,
                        markersize=5,
                    )
            floor = sorted({m.N: m.floor_ms for m in found}.items())
            if floor:
                look = style.look("floor")
                label = "Copy of the same bytes"
                x, y = zip(*floor, strict=True)
                axis.plot(x, y, label=label, color=look.color, linestyle=look.line)
            axis.set(xscale="log", yscale="log", title=style.order(causal))
            axis.set_xlabel("sequence length N")
            lengths = record.values("N")
            axis.set_xticks(lengths, [style.length(n) for n in lengths])
            axis.minorticks_off()
            axis.yaxis.set_major_formatter(lambda value, _: style.number(value))
            axis.grid(True)
        axes[0].set_ylabel(f"{style.work_name(work)}, median [ms]")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
        metadata = {"Date": None} if str(path).endswith(".svg") else {"Software": None}
        figure.savefig(path, dpi=110, transparent=True, metadata=metadata)
        plt.close(figure)
    shown = time_by_length(record)
    wanted = [a for a in shown.alts.values() if f"B = {B}," in a and a.split(":")[0].endswith(work)]
    return " ".join(wanted)
