"""The model explorer: sliders for sizes and hardware, curves computed as they move.

A self-contained script evaluates the terms of `bench.models`, the same ones that Python evaluates,
so nothing is prepared in advance and it works on a static page and in a notebook alike. What was
measured is drawn over the curves where the sliders stand at sizes that were measured.
"""

import html
import json
import math
from dataclasses import dataclass, field

from . import data_sheets, models, style, tables
from .figures import AXIS, CONFIG, LEGEND, MARGIN, TEMPLATE, notebook_loader
from .models import MODELS, Model
from .results import Record
from .roofline import FORWARD

LENGTHS = [2**i for i in range(7, 21)]
QUANTITIES = {
    "time": "least time [ms]",
    "flops": "FLOPs",
    "moved": "bytes moved",
    "held": "bytes held",
}
# name: (label, lowest, highest, start, step) of the exponent of two; the rest in their own units
SLIDERS = {
    "N": ("N: tokens", 7, 20, 14, 1),
    "D": ("D: size of a head", 4, 8, 6, 1),
    "B": ("B: sequences", 0, 7, 3, 1),
    "H": ("H: heads", 0, 7, 3, 1),
    "C": ("C: tokens of a chunk", 4, 12, 6, 1),
}
HARDWARE = {
    "bandwidth": ("bandwidth [TB/s]", -1.0, 1.0),
    "rate": ("FLOP rate [TFLOP/s]", 0.5, 3.5),
}
FIXED = (0, 100, 0)  # µs
DTYPES = {"16 bits": 2, "32 bits": 4}
START_GPU = "NVIDIA H100 80GB HBM3"
CHUNK = 64  # of the contender "eager"

SCRIPT = """
(() => {
  const root = document.currentScript.parentElement;
  const given = JSON.parse(root.querySelector("script.book-explorer-data").textContent);
  const control = (name) => root.querySelector(`[data-control="${name}"]`);
  const shown = (name, text) => {
    root.querySelector(`[data-shown="${name}"]`).textContent = text;
  };
  const short = (x) => {
    if (x >= 1e6 || (x > 0 && x < 1e-3)) return x.toExponential(2);
    return String(Number(x.toPrecision(3)));
  };
  const tokens = (n) => n >= 1048576 ? `${n / 1048576}M` : n >= 1024 ? `${n / 1024}K` : String(n);

  const value = (terms, sizes) => terms.reduce((sum, t) => sum
    + Object.entries(t.p).reduce((m, [k, e]) => m * sizes[k] ** e, t.c), 0);

  function cost(model, quantity, sizes, gpu) {
    if (quantity !== "time") return value(model[quantity], sizes);
    const moved = value(model.moved, sizes) / gpu.bandwidth;
    return 1e3 * Math.max(moved, value(model.flops, sizes) / gpu.rate) + gpu.fixed;
  }

  function bound(model, sizes, gpu) {
    const moved = value(model.moved, sizes) / gpu.bandwidth;
    const flops = value(model.flops, sizes) / gpu.rate;
    if (gpu.fixed > 1e3 * Math.max(moved, flops)) return "the fixed time";
    return moved > flops ? "bytes" : "FLOPs";
  }

  function crossover(sizes, gpu) {
    const [slow, fast] = ["tiled", "linear"].map((n) => given.models.find((m) => m.name === n));
    let from = null;
    for (let e = 20; e >= 4; e -= 1 / 32) {
      const at = { ...sizes, N: 2 ** e };
      if (cost(fast, "time", at, gpu) >= cost(slow, "time", at, gpu)) break;
      from = 2 ** e;
    }
    return from;
  }

  function read() {
    const sizes = { b: Number(control("b").value) };
    for (const name of Object.keys(given.sliders)) {
      sizes[name] = 2 ** Number(control(name).value);
      shown(name, tokens(sizes[name]));
    }
    const gpu = { fixed: Number(control("fixed").value) / 1e3 };
    const [bandwidth, rate] = ["bandwidth", "rate"].map((n) => 10 ** Number(control(n).value));
    gpu.bandwidth = bandwidth * 1e12;
    gpu.rate = rate * 1e12;
    shown("bandwidth", short(bandwidth));
    shown("rate", short(rate));
    shown("fixed", control("fixed").value);
    return [sizes, gpu, control("quantity").value];
  }

  function update() {
    const [sizes, gpu, quantity] = read();
    const name = control("gpu").value;
    const curves = given.models.map((m) => given.lengths.map(
      (n) => cost(m, quantity, { ...sizes, N: n }, gpu)));
    const rows = root.querySelectorAll("tbody tr");
    given.models.forEach((m, i) => {
      const cells = rows[i].querySelectorAll("td");
      ["time", "flops", "moved", "held"].forEach((q, j) => {
        cells[j].textContent = short(cost(m, q, sizes, gpu));
      });
      cells[4].textContent = bound(m, sizes, gpu);
    });
    const from = crossover(sizes, gpu);
    const words = from === null ? "never, up to a million tokens"
      : from <= 16 ? "at every length" : `from ${Math.round(from)} tokens on`;
    root.querySelector(".book-explorer-crossover").textContent =
      `In this model linear attention is faster than tiled softmax attention ${words}.`;
    const points = given.points.map((p) => quantity === "time" && p.gpu === name
      && p.B === sizes.B && p.H === sizes.H && p.D === sizes.D && p.b === sizes.b
      && (p.C === null || p.C === sizes.C));
    const all = curves.flat();
    const plot = root.querySelector(".book-plotly");
    const line = [Math.min(...all), Math.max(...all)];
    window.Plotly.update(plot,
      { y: [...curves, line], x: [...curves.map(() => given.lengths), [sizes.N, sizes.N]] },
      { "yaxis.title.text": given.quantities[quantity] },
      [...curves.keys(), curves.length]);
    if (points.length) {
      window.Plotly.restyle(plot, { visible: points },
        points.map((_, i) => curves.length + 1 + i));
    }
    const at = (m) => `${m.label} ${short(cost(m, quantity, sizes, gpu))}`;
    plot.setAttribute("aria-label", `${given.quantities[quantity]} at ${tokens(sizes.N)} tokens: `
      + given.models.map(at).join("; ") + ".");
  }

  function choose() {
    const sheet = given.sheets[control("gpu").value];
    if (sheet) {
      control("bandwidth").value = Math.log10(sheet[0] / 1e12);
      // float32 is multiplied without tensor cores
      control("rate").value = Math.log10(sheet[control("b").value === "4" ? 2 : 1] / 1e12);
    }
    update();
  }

  root.addEventListener("input", (event) => {
    const name = event.target.dataset.control;
    if (name === "gpu" || name === "b") return choose();
    if (name === "bandwidth" || name === "rate") control("gpu").value = "";
    update();
  });
})();
"""


@dataclass
class Explorer:
    """Models under sliders; `records` give the points that are drawn over them."""

    records: list[Record]
    models: tuple[Model, ...] = MODELS
    start: dict = field(default_factory=dict)  # exponents of SLIDERS other than theirs

    def sizes(self) -> dict[str, float]:
        """The sizes that show first."""
        start = {name: s[3] for name, s in SLIDERS.items()} | self.start
        return {name: 2**e for name, e in start.items()} | {"b": 2}

    def points(self) -> list[dict]:
        """What was measured of the models' contenders, forward: one trace for each size and GPU."""
        found = []
        for record in self.records:
            for model in self.models:
                for B in record.values("B"):
                    rows = record.select(
                        contender=model.measured, B=B, causal=model.causal, work=FORWARD
                    )
                    good = [m for m in rows if m.ok and m.experiment == "comparison"]
                    if model.measured and good:
                        found.append(
                            {
                                "gpu": record.provenance.gpu,
                                "B": B,
                                "H": good[0].H,
                                "D": good[0].D,
                                "b": 4 if good[0].dtype == "float32" else 2,
                                "C": CHUNK if model.name == "chunks" else None,
                                "label": f"{model.label}, measured",
                                "look": model.look,
                                "x": [m.N for m in good],
                                "y": [m.median_ms for m in good],
                            }
                        )
        return found

    def _spec(self, sheet) -> dict:
        sizes = self.sizes()
        data = []
        for model in self.models:
            look = style.look(model.look)
            y = [
                model.least_ms(sheet.bandwidth, sheet.matrix, **(sizes | {"N": n})) for n in LENGTHS
            ]
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": model.label,
                    "x": LENGTHS,
                    "y": y,
                    "line": {"color": look.color, "dash": look.dash, "width": 2},
                    "hovertemplate": f"{model.label}<br>%{{x}}: %{{y:.3g}}<extra></extra>",
                }
            )
        every = [y for trace in data for y in trace["y"]]
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": "N",
                "x": [sizes["N"]] * 2,
                "y": [min(every), max(every)],
                "line": {"color": style.GREY, "dash": "dot", "width": 1},
                "hoverinfo": "skip",
            }
        )
        for p in self.points():
            here = all(p[n] in (sizes[n], None) for n in ("B", "H", "D", "b", "C"))
            here = here and p["gpu"] == START_GPU
            look = style.look(p["look"])
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": p["label"],
                    "x": p["x"],
                    "y": p["y"],
                    "marker": {"color": look.color, "symbol": look.symbol, "size": 8},
                    "hovertemplate": f"{p['label']}<br>%{{x}}: %{{y:.3g}} ms<extra></extra>",
                    "visible": here,
                }
            )
        ticks = LENGTHS[::2]
        axis = AXIS | {"type": "log"}
        layout = {
            "height": 460,
            "template": TEMPLATE,
            "margin": MARGIN,
            "hovermode": "closest",
            "legend": LEGEND,
            "xaxis": axis
            | {
                "title": {"text": "sequence length N"},
                "tickvals": ticks,
                "ticktext": [*map(style.length, ticks)],
            },
            "yaxis": axis | {"title": {"text": QUANTITIES["time"]}, "exponentformat": "power"},
            "meta": {"alts": {}},
        }
        return {"data": data, "layout": layout, "config": CONFIG}

    def table(self) -> tables.Table:
        """What the models say at the sizes that show first."""
        sizes, sheet = self.sizes(), data_sheets.SHEETS[START_GPU]
        rows = []
        for model in self.models:
            moved, flops = (model.value(w, **sizes) for w in ("moved", "flops"))
            counts = [flops, moved, model.value("held", **sizes)]
            rows.append(
                [
                    model.label,
                    style.number(model.least_ms(sheet.bandwidth, sheet.matrix, **sizes)),
                    *(f"{x:.2e}" for x in counts),
                    "bytes" if moved / sheet.bandwidth > flops / sheet.matrix else "FLOPs",
                ]
            )
        columns = ["at N", "least time [ms]", "FLOPs", "moved [B]", "held [B]", "bound by"]
        return tables.Table(columns, rows, words=("at N", "bound by"))

    def __repr__(self) -> str:
        return str(self.table())

    def _repr_html_(self) -> str:
        sheet = data_sheets.SHEETS[START_GPU]
        given = {
            "models": [
                {"name": m.name, "label": m.label}
                | {w: [t.plain() for t in getattr(m, w)] for w in ("flops", "moved", "held")}
                for m in self.models
            ],
            "lengths": LENGTHS,
            "sliders": dict.fromkeys(SLIDERS, True),
            "quantities": QUANTITIES,
            "sheets": {
                n: [s.bandwidth, s.matrix, s.float32] for n, s in data_sheets.SHEETS.items()
            },
            "points": [{k: p[k] for k in ("gpu", "B", "H", "D", "b", "C")} for p in self.points()],
        }
        safe = [json.dumps(x).replace("</", "<\\/") for x in (given, self._spec(sheet))]
        sources = "; ".join(r.line for r in self.records) or "nothing is recorded"
        return (
            '<div class="book-figure book-explorer">'
            f'<script type="application/json" class="book-explorer-data">{safe[0]}</script>'
            f"{self._controls(sheet)}"
            f'<div class="book-plotly" role="img" aria-label="{html.escape(self._alt(sheet))}" '
            f'style="min-height: 460px"><script type="application/json">{safe[1]}</script></div>'
            f'<p class="book-explorer-crossover" aria-live="polite">{self.crossover(sheet)}</p>'
            f"{self.table()._repr_html_()}"
            f'<p class="book-provenance">Curves are computed. Points: {html.escape(sources)}.</p>'
            f"<script>{SCRIPT}</script></div>{notebook_loader()}"
        )

    def crossover(self, sheet) -> str:
        """From which length on the linear model is the faster one, in the words of the script."""
        found = None
        tiled, linear = (models.get(name) for name in ("tiled", "linear"))
        for step in range(20 * 32, 4 * 32 - 1, -1):  # down from a million tokens
            at = self.sizes() | {"N": 2 ** (step / 32)}
            slow, fast = (m.least_ms(sheet.bandwidth, sheet.matrix, **at) for m in (tiled, linear))
            if fast >= slow:
                break
            found = at["N"]
        words = "never, up to a million tokens"
        if found is not None:
            words = "at every length" if found <= 16 else f"from {round(found)} tokens on"
        return f"In this model linear attention is faster than tiled softmax attention {words}."

    def _alt(self, sheet) -> str:
        sizes = self.sizes()
        said = [
            f"{m.label} {style.number(m.least_ms(sheet.bandwidth, sheet.matrix, **sizes))}"
            for m in self.models
        ]
        return f"Least time [ms] at {style.length(sizes['N'])} tokens: {'; '.join(said)}."

    def _controls(self, sheet) -> str:
        def select(name, label, options):
            body = "".join(
                f'<option value="{html.escape(str(v))}"{" selected" if on else ""}>'
                f"{html.escape(text)}</option>"
                for v, text, on in options
            )
            return (
                f'<label>{label} <select data-control="{name}" autocomplete="off">{body}'
                "</select></label>"
            )

        def slider(name, label, low, high, value, step, text):
            return (
                f'<label><span>{html.escape(label)}: <span data-shown="{name}">{text}</span>'
                f'</span> <input type="range" data-control="{name}" min="{low}" max="{high}" '
                f'value="{value}" step="{step}" autocomplete="off"></label>'
            )

        start = self.sizes()
        parts = [
            select("quantity", "Show", [(k, v, k == "time") for k, v in QUANTITIES.items()]),
            select(
                "gpu", "GPU",
                [("", "as the sliders say", False)]
                + [(n, n.removeprefix("NVIDIA "), n == START_GPU) for n in data_sheets.SHEETS],
            ),
            select("b", "Numbers of", [(v, k, v == 2) for k, v in DTYPES.items()]),
        ]  # fmt: skip
        for name, (label, low, high, _, step) in SLIDERS.items():
            exponent = start[name].bit_length() - 1
            parts.append(slider(name, label, low, high, exponent, step, style.length(start[name])))
        for name, (label, low, high) in HARDWARE.items():
            value = {"bandwidth": sheet.bandwidth, "rate": sheet.matrix}[name] / 1e12
            text = style.number(value)
            parts.append(slider(name, label, low, high, math.log10(value), "any", text))
        low, high, value = FIXED
        parts.append(slider("fixed", "fixed time [µs]", low, high, value, 1, str(value)))
        return f'<div class="book-switch">{"".join(parts)}</div>'
