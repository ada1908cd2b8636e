"""Any two contenders: the time of the second over that of the first, by sequence length.

A pair for every choice would be thousands of lines, so a self-contained script divides the times
where a page or a notebook shows them. Both times of a ratio come from one race: that of a record,
or where it has not both, that of a study on the same GPU: the whole field (`contenders`), or other
heads, sizes and dtypes (`shapes`).
"""

import html
import json
from dataclasses import dataclass, field

from . import contenders, style
from .figures import CONFIG, _layout, _line, names_of, notebook_loader
from .results import STEADY, Record
from .studies import Study

RACES = {
    "contenders": "the race of the whole field",
    "shapes": "a race of a few, one of heads, D and dtype changed",
}
AT = ("batch", "heads", "D", "order", "dtype", "work")  # what a ratio is for, beside N

SCRIPT = """
(() => {
  const root = document.currentScript.parentElement;
  const given = JSON.parse(root.querySelector("script.book-pair-data").textContent);
  const value = (name) => root.querySelector(`[data-control="${name}"]`).value;
  const short = (x) => String(Number(x.toPrecision(3)));
  const length = (n) => n % 1024 ? String(n) : `${n / 1024}K`;

  function ratios(first, second, gpu, at) {
    for (const source of given.sources.filter((s) => String(s.gpu) === gpu)) {
      const [a, b] = [first, second].map((name) => source.times[`${name}|${at}`] || {});
      const x = Object.keys(a).filter((n) => n in b).map(Number);
      if (x.length) return [x, x.map((n) => b[n] / a[n]), source.race];
    }
    return [[], [], ""];
  }

  function update() {
    const [first, second] = [value("first"), value("second")];
    const at = given.at.map(value);
    const twice = first === second;
    const [x, y, race] = twice ? [[], [], ""]
      : ratios(first, second, value("gpu"), at.join("|"));
    const what = `${given.labels[second]} / ${given.labels[first]}`;
    const last = x.length - 1;
    const said = twice ? "choose another one" : x.length === 0 ? "not measured"
      : `${short(y[0])} at N = ${length(x[0])}`
        + (last ? `, ${short(y[last])} at N = ${length(x[last])}` : "") + ` (${race})`;
    const gpu = given.gpus[value("gpu")];
    const where = `B = ${at[0]}, H = ${at[1]}, D = ${at[2]}, ${at[3]}, ${at[4]}, `
      + at[5].replace("+", " + ");
    const text = `${gpu}: Time of ${what}, ${where}: ${said}.`;
    const plot = root.querySelector(".book-plotly");
    plot.setAttribute("aria-label", text);
    root.querySelector(".book-pair-words").textContent = text;
    const look = given.looks[second];
    window.Plotly.restyle(plot, {
      x: [x], y: [y], name: [what], "line.color": look.color, "line.dash": look.dash,
      "marker.color": look.color, "marker.symbol": look.symbol }, [1]);
  }

  root.addEventListener("change", update);
})();
"""


@dataclass
class AnyTwo:
    """Races of the same few contenders, by length, and with `fields` those of studies."""

    records: list[Record]
    fields: list[Study] = field(default_factory=list)

    def __post_init__(self):
        self.gpus = names_of(self.records)
        self.sources = []
        for i, record in enumerate(self.records):
            rows = [vars(m) for m in record.measurements if m.experiment == "comparison" and m.ok]
            self.sources.append({"gpu": i, "race": "one race by length", "times": _times(rows)})
        at = {r.provenance.gpu: i for i, r in reversed([*enumerate(self.records)])}
        for study in self.fields:
            gpu, rows = study.provenance.gpu, study.select(status="ok")
            if gpu in at and rows:
                found = {"gpu": at[gpu], "race": RACES.get(study.study, "a race of its own")}
                self.sources.append(found | {"times": _times(rows)})
        keys = [key.split("|") for s in self.sources for key in s["times"]]
        known = [n for n in contenders.names() if any(k[0] == n for k in keys)]
        self.names = list(dict.fromkeys([*known, *(k[0] for k in keys)]))
        self.at = [list(dict.fromkeys(k[i] for k in keys)) for i in range(1, 1 + len(AT))]

    def choices(self) -> dict[str, list[tuple]]:
        """For each control its label and its options, (value, text); the first shows first."""
        labels = [(n, contenders.label(n)) for n in self.names]
        slow = next((n for n in ("sdpa-cudnn", "sdpa-flash") if n in self.names), self.names[-1])
        second = sorted(labels, key=lambda option: option[0] != slow)
        batches = sorted(map(int, self.at[0]), reverse=True)
        heads, sizes = (map(int, found) for found in self.at[1:3])  # that of the records first
        orders, dtypes, works = self.at[3:]
        return {
            "first": ("First", labels),
            "second": ("Second", second),
            "gpu": ("GPU", [*enumerate(self.gpus)]),
            "batch": ("Batch", [(b, f"B = {b}") for b in batches]),
            "heads": ("Heads", [(h, f"H = {h}") for h in heads]),
            "D": ("D", [(d, str(d)) for d in sizes]),
            "order": ("Order", [(o, o) for o in sorted(orders)]),
            "dtype": ("dtype", [(d, d) for d in dtypes]),
            "work": ("Work", [(w, style.work_name(w)) for w in sorted(works)]),
        }

    def ratios(self, first: str, second: str, gpu: int, *at) -> tuple[list, list, str]:
        """(lengths, time of the second over that of the first, which race); empty if there is none.

        `at` is a value of each of AT, as in `choices`.
        """
        end = "|".join(map(str, at))
        for source in self.sources:
            a, b = (source["times"].get(f"{name}|{end}", {}) for name in (first, second))
            both = sorted(set(a) & set(b))
            if source["gpu"] == gpu and both:
                return both, [b[n] / a[n] for n in both], source["race"]
        return [], [], ""

    def alt(self) -> str:
        """What shows first, in the words of the script."""
        chosen = [options[0] for _, options in self.choices().values()]
        (first, a), (second, b), (gpu, name), *at = chosen
        B, H, D, order, dtype, _ = (value for value, _ in at)
        x, y, race = self.ratios(first, second, gpu, *(value for value, _ in at))
        said = "choose another one" if first == second else "not measured"
        if x:
            ends = dict.fromkeys((0, len(x) - 1))
            said = ", ".join(f"{style.number(y[i])} at N = {style.length(x[i])}" for i in ends)
            said += f" ({race})"
        where = f"B = {B}, H = {H}, D = {D}, {order}, {dtype}, {at[-1][1]}"
        return f"{name}: Time of {b} / {a}, {where}: {said}."

    def spec(self) -> dict:
        """{"data", "layout", "config"} of what shows first."""
        lengths = sorted({n for s in self.sources for t in s["times"].values() for n in t})
        first, second, *rest = (options[0][0] for _, options in self.choices().values())
        x, y, _ = self.ratios(first, second, *rest)
        what = f"{contenders.label(second)} / {contenders.label(first)}"
        even = _line("floor", "as long as the first", lengths[:: len(lengths) - 1 or 1], [1, 1],
                     None, [], True)  # fmt: skip
        line = _line(second, what, x, y, None, [], True)
        layout = _layout(lengths, "time of the second / time of the first")
        marks = [m * 10.0**e for e in range(-4, 6) for m in (1, 2, 5)]
        layout["yaxis"] |= {"tickvals": marks, "ticktext": [style.number(m) for m in marks]}
        data = [even | {"hoverinfo": "skip"}, line | {"hoverinfo": "x+y+name"}]
        return {"data": data, "layout": layout, "config": CONFIG}

    def __repr__(self) -> str:
        return self.alt() if self.names else "Nothing was measured."

    def _repr_html_(self) -> str:
        if not self.names:
            return f"<p>{self}</p>"
        given = {
            "at": AT,
            "gpus": self.gpus,
            "labels": {n: contenders.label(n) for n in self.names},
            "looks": {n: _look(n) for n in self.names},
            "sources": self.sources,
        }
        safe = [
            json.dumps(x, separators=(",", ":")).replace("</", "<\\/") for x in (given, self.spec())
        ]
        controls = "".join(select(n, *c) for n, c in self.choices().items())
        lines = [one.line for one in (*self.records, *self.fields)]
        alt = html.escape(self.alt())
        return (
            '<div class="book-figure">'
            f'<script type="application/json" class="book-pair-data">{safe[0]}</script>'
            f'<div class="book-switch">{controls}</div>'
            f'<div class="book-plotly" role="img" aria-label="{alt}" style="min-height: 440px">'
            f'<script type="application/json">{safe[1]}</script></div>'
            f'<p class="book-pair-words" aria-live="polite">{alt}</p>'
            f'<p class="book-provenance">{html.escape(style.sentence(*lines))}</p>'
            f"<script>{SCRIPT}</script></div>{notebook_loader()}"
        )


def _times(rows) -> dict[str, dict[int, float]]:
    """{"name|…": {N: ms}} of the rows that are steady, with a value of each of AT."""
    found: dict[str, dict[int, float]] = {}
    steady = [r for r in rows if r.get("p80_ms", 1.0) <= STEADY * r.get("p20_ms", 1.0)]
    for r in sorted(steady, key=lambda r: r["N"]):
        shape = r["B"], r["H"], r["D"], style.order(r["causal"]), r["dtype"], r["work"]
        found.setdefault("|".join(map(str, (r["contender"], *shape))), {})[r["N"]] = float(
            f"{r['median_ms']:.5g}"
        )
    return found


def _look(name: str) -> dict:
    look = style.look(name)
    return {"color": look.color, "dash": look.dash, "symbol": look.symbol}


def select(name: str, label: str, options: list[tuple]) -> str:
    """One control; of a single option it stays as a hidden value."""
    body = "".join(
        f'<option value="{html.escape(str(v))}">{html.escape(text)}</option>' for v, text in options
    )
    hidden = " hidden" if len(options) < 2 else ""
    return (
        f'<label{hidden} style="margin-right: 1em">{label} '
        f'<select data-control="{name}" autocomplete="off">{body}</select></label>'
    )
