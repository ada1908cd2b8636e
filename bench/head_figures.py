"""The weights of heads, computed where a page or a notebook shows them, from queries and keys.

A map for each model, head, mask and temperature would be thousands of lines, so the page has the
queries and keys that were recorded, and a self-contained script makes the weights of them, their
entropy and their rank: with the same controls as a panel in a notebook, where a model is trained.
"""

import html
import json
from dataclasses import dataclass

from . import style, tables, tiny
from .any_two import select
from .figures import CONFIG, notebook_loader
from .map_figures import LAYOUT, MASKS, NAMES, TEMPERATURES, facts, heatmap
from .studies import Study, attention_maps

SCRIPT = """
(() => {
  const root = document.currentScript.parentElement;
  const given = JSON.parse(root.querySelector("script.book-heads-data").textContent);
  const value = (name) => root.querySelector(`[data-control="${name}"]`).value;
  const short = (x) => String(Number(x.toPrecision(3)));
  const sum = (x) => x.reduce((a, b) => a + b, 0);
  const dot = (a, b) => sum(a.map((x, i) => x * b[i]));
  const phi = {
    elu: (x) => x > 0 ? x + 1 : Math.exp(x), exp: Math.exp, relu: (x) => Math.max(x, 0) };

  function matrix(text, largest, width) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const view = new DataView(bytes.buffer), rows = [];
    for (let i = 0; i < bytes.length; i += 2 * width) {
      rows.push(Array.from({ length: width },
        (_, j) => view.getInt16(i + 2 * j, true) * largest / 32767));
    }
    return rows;
  }

  function weights(head, mixer, causal, temperature) {
    const [q, k] = ["q", "k"].map((n) => matrix(head[n], head[`${n}_largest`], given.width));
    const colder = q.map((row) => row.map((x) => x / temperature));
    const seen = (i, j) => !causal || j <= i;
    if (mixer === given.softmax) {
      return colder.map((a, i) => {
        const scores = k.map((b, j) => seen(i, j) ? dot(a, b) / Math.sqrt(a.length) : -Infinity);
        const top = Math.max(...scores), e = scores.map((s) => Math.exp(s - top)), all = sum(e);
        return e.map((x) => x / all);
      });
    }
    const [fq, fk] = [colder, k].map((x) => x.map((row) => row.map(phi[mixer])));
    return fq.map((a, i) => {
      const w = fk.map((b, j) => seen(i, j) ? dot(a, b) : 0), all = sum(w) + given.eps;
      return w.map((x) => x / all);
    });
  }

  const bits = (x) => -sum(x.map((w) => w > 0 ? w * Math.log2(w) : 0));

  // Columns are turned in pairs until they are orthogonal: their lengths are the singular values.
  function rank(w) {
    const c = w[0].map((_, j) => w.map((row) => row[j]));
    for (let sweep = 0; sweep < 12; sweep++) {
      for (let p = 0; p < c.length; p++) for (let r = p + 1; r < c.length; r++) {
        const [a, b, both] = [dot(c[p], c[p]), dot(c[r], c[r]), dot(c[p], c[r])];
        if (Math.abs(both) <= 1e-14 * Math.sqrt(a * b)) continue;
        const z = (b - a) / (2 * both), t = (z < 0 ? -1 : 1) / (Math.abs(z) + Math.hypot(1, z));
        const cos = 1 / Math.hypot(1, t), sin = cos * t, old = c[p];
        c[p] = old.map((x, i) => cos * x - sin * c[r][i]);
        c[r] = old.map((x, i) => sin * x + cos * c[r][i]);
      }
    }
    const sizes = c.map((x) => Math.hypot(...x)), all = sum(sizes);
    return 2 ** bits(sizes.map((x) => x / all));
  }

  function update() {
    const [task, mixer, steps, head, mask] = given.selects.map(value);
    const temperature = Number(value("temperature"));
    root.querySelector('[data-shown="temperature"]').textContent = String(temperature);
    const model = `${task}|${mixer}|${steps}`, found = given.heads[`${model}|${head}`];
    const plot = root.querySelector(".book-plotly"), words = given.words[task];
    const what = `${given.names[mixer]}, layer ${head.replace(",", " head ")} on the task ${task}, `
      + `${steps} steps, ${mask}, temperature ${temperature}`;
    let z = [[]], cells = ["–", "–", "–", "–"], text = `Weights of ${what}: not measured.`;
    if (found) {
      const w = weights(found, mixer, mask === given.causal, temperature);
      const largest = Math.max(...w.flat()), entropy = sum(w.map(bits)) / w.length;
      const all = [largest, entropy, 2 ** entropy, rank(w)].map(short);
      z = w.map((row) => row.map((x) => Math.round(100 * x / largest)));
      cells = all;
      text = `Weights of ${what}: a query's weights have an entropy of ${all[1]} bits; effective `
        + `rank ${all[3]} of ${w.length}. `
        + `This model is ${short(100 * given.right[model])} % right.`;
    }
    root.querySelectorAll("tbody td").forEach((cell, i) => { cell.textContent = cells[i]; });
    plot.setAttribute("aria-label", text);
    root.querySelector(".book-heads-words").textContent = text;
    // restyle would forget that axes have words, as "3 15" reads as a number; and a range that is
    // left to Plotly turns round after an empty map
    const { xaxis, yaxis } = plot.layout, end = words.length - 0.5;
    Object.assign(xaxis, { autorange: false, range: [-0.5, end] });
    Object.assign(yaxis, { autorange: false, range: [end, -0.5] });
    window.Plotly.react(plot, [{ ...plot.data[0], z, x: words, y: words }], plot.layout);
  }

  root.addEventListener("input", update);
})();
"""


@dataclass
class Heads:
    """The weights of every head that a study has; controls choose head, mask and temperature."""

    study: Study

    def __post_init__(self):
        self.rows = self.study.select(kind="head", status="ok")

    def choices(self) -> dict[str, tuple[str, list[tuple]]]:
        """For each select its label and its options, (value, text); the first shows first."""

        def of(*names):
            return list(dict.fromkeys(tuple(r[n] for n in names) for r in self.rows))

        steps = sorted({r["steps"] for r in self.rows}, reverse=True)
        return {
            "task": ("Task", [(t, t) for (t,) in of("task")]),
            "mixer": ("Mixer", [(m, NAMES.get(m, m)) for (m,) in of("mixer")]),
            "steps": ("Steps", [(n, str(n)) for n in steps]),
            "head": (
                "Head",
                [(f"{layer},{h}", f"layer {layer}, head {h}") for layer, h in of("layer", "head")],
            ),
            "mask": ("Mask", [(m, m) for m in MASKS]),
        }

    def weights(self, task, mixer, steps, head, mask, temperature):
        """The weights [N, N] in float64, or None where that head was not recorded."""
        layer, number = map(int, head.split(","))
        at = {"task": task, "mixer": mixer, "steps": int(steps), "layer": layer, "head": number}
        for r in self.rows:
            if at.items() <= r.items():
                pair = (
                    attention_maps.unpacked_16(r[n], r[f"{n}_largest"], r["width"]) for n in "qk"
                )
                causal = mask == MASKS[0]
                return tiny.weights(*pair, mixer, causal=causal, temperature=temperature)
        return None

    def right(self) -> dict[str, float]:
        """The share of predictions that are right, by task, mixer and steps."""
        found = self.study.select(kind="trained", status="ok")
        return {f"{r['task']}|{r['mixer']}|{r['steps']}": r["accuracy"] for r in found}

    def told(self, task, mixer, steps, head, mask, temperature) -> tuple[list, list[str], str]:
        """(cells in percent of the largest, numbers below the map, words), as the script does."""
        w = self.weights(task, mixer, steps, head, mask, temperature)
        layer, number = head.split(",")
        what = (
            f"Weights of {NAMES.get(mixer, mixer)}, layer {layer} head {number} on the task "
            f"{task}, {steps} steps, {mask}, temperature {temperature:g}"
        )
        if w is None:
            return [[]], ["–"] * 4, f"{what}: not measured."
        numbers = facts(w.max().item(), tiny.entropy(w), tiny.effective_rank(w))
        right = style.number(100 * self.right()[f"{task}|{mixer}|{steps}"])
        text = (
            f"{what}: a query's weights have an entropy of {numbers[1][1]} bits; effective rank "
            f"{numbers[3][1]} of {len(w)}. This model is {right} % right."
        )
        cells = (100 * w / w.max()).round().int().tolist()
        return cells, [n for _, n in numbers], text

    def first(self) -> tuple:
        """What is chosen first."""
        return (*(options[0][0] for _, options in self.choices().values()), 1.0)

    def words(self) -> dict[str, list[str]]:
        """The tokens of each task, behind their numbers."""
        texts = {r["task"]: r["tokens"].split(" ") for r in self.rows}
        return {task: [f"{i} {w}" for i, w in enumerate(text)] for task, text in texts.items()}

    def __repr__(self) -> str:
        return self.told(*self.first())[2]

    def _repr_html_(self) -> str:
        cells, numbers, text = self.told(*self.first())
        words = self.words()
        given = {
            "selects": [*self.choices()], "softmax": tiny.SOFTMAX, "causal": MASKS[0],
            "eps": tiny.EPS, "width": self.rows[0]["width"], "names": NAMES, "words": words,
            "right": self.right(),
            "heads": {
                f"{r['task']}|{r['mixer']}|{r['steps']}|{r['layer']},{r['head']}":
                {n: r[n] for n in ("q", "k", "q_largest", "k_largest")}
                for r in self.rows
            },
        }  # fmt: skip
        shown, hover = words[self.first()[0]], "query %{y}, key %{x}: %{z} % of the largest weight"
        trace = heatmap([], [], hover, [], True) | {"z": cells, "x": shown, "y": shown}
        spec = {"data": [trace], "layout": LAYOUT, "config": CONFIG}
        safe = [json.dumps(x, separators=(",", ":")).replace("</", "<\\/") for x in (given, spec)]
        names = [name for name, _ in facts(0.0, 0.0, 0.0)]
        table = tables.Table(["", "value"], [list(x) for x in zip(names, numbers, strict=True)])
        low, high, step = TEMPERATURES
        slider = (
            '<label><span>Temperature: <span data-shown="temperature">1</span></span> '
            f'<input type="range" data-control="temperature" min="{low}" max="{high}" '
            f'value="1" step="{step}" autocomplete="off"></label>'
        )
        controls = "".join(select(n, *c) for n, c in self.choices().items()) + slider
        return (
            '<div class="book-figure">'
            f'<script type="application/json" class="book-heads-data">{safe[0]}</script>'
            f'<div class="book-switch">{controls}</div>'
            f'<div class="book-plotly" role="img" aria-label="{html.escape(text)}" '
            f'style="min-height: {LAYOUT["height"]}px">'
            f'<script type="application/json">{safe[1]}</script></div>'
            f'<p class="book-heads-words" aria-live="polite">{html.escape(text)}</p>'
            f"{table._repr_html_()}"
            f'<p class="book-provenance">{html.escape(style.sentence(self.study.line))}</p>'
            f"<script>{SCRIPT}</script></div>{notebook_loader()}"
        )


def attention(study: Study) -> Heads | tables.Table:
    """The heads of a study, or a table that says that it has none."""
    heads = Heads(study)
    return heads if heads.rows else tables.Table(["nothing was measured"], [], study.line)
