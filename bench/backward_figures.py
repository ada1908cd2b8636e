"""Figures of the backward pass: what its kernels read and write, its two walks, its times.

They use the format and the look of `bench.figures` and `bench.diagrams`.
"""

import html
import json
from dataclasses import dataclass

from . import data_sheets, passes, style
from .diagrams import PALETTE, Drawing, Sketch
from .figures import LEGEND, MARGIN, TEMPLATE, Figure, Switch, by_gpu
from .studies import Study
from .tables import Table

COLORS = {
    "q": PALETTE[1], "k": PALETTE[0], "v": PALETTE[2], "o": PALETTE[6],
    "do": PALETTE[6], "dq": PALETTE[1], "dk": PALETTE[0], "dv": PALETTE[2],
}  # fmt: skip
ORDERS = {"bidirectional": False, "causal": True}
WIDTH, ROW, CHIP, MIDDLE = 462, 62, 34, (202, 368)

FLOW_SCRIPT = """
if (!window.bookFlow) {
  window.bookFlow = true;
  document.addEventListener("change", (event) => {
    const figure = event.target.closest(".book-flow");
    if (!figure || !event.target.matches("select")) return;
    const [order, tensor] = [...figure.querySelectorAll("select")].map((s) => s.value);
    for (const svg of figure.querySelectorAll("svg")) {
      svg.style.display = svg.dataset.order === order ? "" : "none";
    }
    for (const chip of figure.querySelectorAll("[data-tensor]")) {
      const shown = tensor === "all" || chip.dataset.tensor === tensor;
      chip.style.opacity = shown ? 1 : 0.15;
    }
    const texts = JSON.parse(figure.querySelector("script").textContent);
    figure.querySelector("output").textContent = texts[order][tensor];
  });
}
"""


@dataclass(frozen=True)
class Flow:
    """Every pass of the library with the tensors it reads and writes; one tensor can be chosen."""

    texts: dict[str, dict[str, str]]  # order -> tensor -> what is said of it

    @property
    def alt(self) -> str:
        return " ".join(t["all"] for t in self.texts.values())

    def __repr__(self) -> str:
        return self.alt

    def _repr_html_(self) -> str:
        tensors = ["all", *COLORS]
        selects = "".join(
            f'<label style="margin-right: 1em">{name} <select autocomplete="off">'
            + "".join(f'<option value="{o}">{words(o)}</option>' for o in options)
            + "</select></label>"
            for name, options, words in (
                ("Order", list(ORDERS), str),
                ("Tensor", tensors, lambda t: "all of them" if t == "all" else t),
            )
        )
        drawn = "".join(_flow_svg(order, i == 0) for i, order in enumerate(ORDERS))
        texts = json.dumps(self.texts).replace("</", "<\\/")
        first = self.texts[next(iter(ORDERS))]["all"]
        return (
            f'<div class="book-flow"><div class="book-switch">{selects}</div>'
            f'<output style="display: block; min-height: 3.4em">{html.escape(first)}</output>'
            f'<script type="application/json">{texts}</script>{drawn}</div>'
            f"<script>{FLOW_SCRIPT}</script>"
        )


def flow() -> Flow:
    """Which pass reads and writes which tensor, forward and backward, in both orders."""
    return Flow({order: _said(causal) for order, causal in ORDERS.items()})


def times_moved(tensor: str, passed: tuple) -> tuple[int, int]:
    """How many of the passes read a tensor, and how many write it."""
    return sum(tensor in p.reads for p in passed), sum(tensor in p.writes for p in passed)


def _said(causal: bool) -> dict[str, str]:
    forward, backward = passes.FORWARD[causal], passes.BACKWARD[causal]
    total = passes.tensors(backward)
    texts = {
        "all": f"{style.order(causal).capitalize()}: the forward pass moves "
        f"{passes.tensors(forward)} tensors, the backward pass {total}; at least "
        f"{passes.IDEAL['forward']} and {passes.IDEAL['backward']} have to be moved."
    }
    for tensor in COLORS:
        parts = []
        for name, passed in (("forward", forward), ("backward", backward)):
            read, written = times_moved(tensor, passed)
            if read or written:
                does = [f"read {_count(read)}"] * bool(read)
                does += [f"written {_count(written)}"] * bool(written)
                parts.append(f"{' and '.join(does)} {name}")
        where = "; ".join(parts) or "not touched"
        texts[tensor] = f"{style.order(causal).capitalize()}: {tensor} is {where}."
    return texts


def _count(n: int) -> str:
    return {1: "once", 2: "twice"}.get(n, f"{n} times")


def _flow_svg(order: str, shown: bool) -> str:
    causal = ORDERS[order]
    parts, y = [], 0
    for title, passed in (
        ("forward", passes.FORWARD[causal]),
        ("backward", passes.BACKWARD[causal]),
    ):
        words = f"{title}: {passes.tensors(passed)} tensors, at least {passes.IDEAL[title]}"
        parts.append(f'<text x="0" y="{y + 20}" font-size="16" font-weight="600">{words}</text>')
        y += 34
        for one in passed:
            parts.append(_pass_svg(one, y))
            y += ROW
        y += 8
    alt = html.escape(_said(causal)["all"])
    hidden = "" if shown else "; display: none"
    return (
        f'<svg data-order="{order}" viewBox="0 0 {WIDTH} {y}" role="img" aria-label="{alt}" '
        f'style="width: 100%; max-width: {WIDTH + 130}px; color: inherit{hidden}" font-size="15" '
        f'fill="currentColor" font-family="{html.escape(style.FONT)}">{"".join(parts)}</svg>'
    )


def _pass_svg(one, y: int) -> str:
    """Chips of what is read, the pass with its states, chips of what is written."""
    left, right = MIDDLE
    height = ROW - 14
    drawn = [
        f'<rect x="{left}" y="{y}" width="{right - left}" height="{height}" rx="5" fill="none" '
        f'stroke="currentColor"/><text x="{(left + right) / 2}" y="{y + 20}" text-anchor="middle">'
        f'{one.name}</text><text x="{(left + right) / 2}" y="{y + 39}" text-anchor="middle" '
        f'font-size="13" fill-opacity="0.75">{html.escape(", ".join(one.states))}</text>'
    ]
    middle = y + height / 2
    for names, start in (
        (one.reads, left - 14 - (CHIP + 3) * len(one.reads)),
        (one.writes, right + 17),
    ):
        for i, name in enumerate(names):
            x = start + i * (CHIP + 3)
            drawn.append(
                f'<g data-tensor="{name}"><rect x="{x}" y="{middle - 14}" width="{CHIP}" '
                f'height="28" rx="4" fill="{COLORS[name]}" fill-opacity="0.3" '
                f'stroke="{COLORS[name]}"/><text x="{x + CHIP / 2}" y="{middle + 5}" '
                f'text-anchor="middle">{name}</text></g>'
            )
    for x, there in ((left - 13, one.reads), (right + 2, one.writes)):
        if there:
            drawn.append(
                f'<path d="M{x} {middle} h11 m-4 -3.5 l4 3.5 l-4 3.5" stroke="currentColor" '
                'fill="none"/>'
            )
    return "".join(drawn)


def walks(chunks: int = 4) -> Drawing:
    """The two walks of the causal backward pass over `chunks` chunks."""
    alt = (
        "The queries are walked from the first chunk to the last: S and z of what came before go "
        "from chunk to chunk, and each chunk leaves dq, g and r. The keys are walked from the last "
        "chunk to the first: dS and dz of what comes after go from chunk to chunk, and each chunk "
        "leaves dk and dv. g and r of the first walk are read by the second."
    )
    s, size, gap = Sketch("walk"), 78, 34
    width = chunks * size + (chunks - 1) * gap

    def row(y, title, at, names, carried, color, reverse):
        s.text(0, at, title, bold=True)
        for i in range(chunks):
            x = i * (size + gap)
            s.box(x, y + 14, size, 52, color)
            s.text(x + size / 2, y + 36, f"chunk {i}", "middle", 15)
            s.text(x + size / 2, y + 56, names, "middle", 14)
            if i:
                ends = (x - 3, x - gap + 3) if reverse else (x - gap + 3, x - 3)
                s.arrow(ends[0], y + 40, ends[1], y + 40)
                s.text(x - gap / 2, y + 32, carried, "middle", 13)

    row(18, "1. queries, first to last", 18, "dq, g, r", "S, z", PALETTE[1], False)
    row(116, "2. keys, last to first", 206, "dk, dv", "dS", PALETTE[0], True)
    for i in range(chunks):
        x = i * (size + gap) + size / 2 + 20
        s.arrow(x, 88, x, 126, dashed=True)
    s.text(width - 26, 112, "g, r", "end", 14)
    return s.drawing(width, 220, alt, widest=width + 120)


def predicted_ms(nbytes: int, study: Study) -> float | None:
    """Bytes over the bandwidth in the data sheet of the study's GPU; None where it has none."""
    sheet = data_sheets.of(study.provenance.gpu)
    return None if sheet is None or nbytes is None else 1e3 * nbytes / sheet.bandwidth


def by_kernel(shown: list[Study]) -> Figure | Table:
    """Each kernel of the library's backward pass: predicted, as a copy, and as it ran."""
    return by_gpu(shown, _by_kernel)


def _by_kernel(study: Study) -> Figure | None:
    found = [r for r in study.select(part="kernel") if r.get("kernel")]
    shapes = sorted({(-r["B"], r["causal"]) for r in found})
    if not shapes:
        return None
    data, alts, numbers, options = [], {}, {}, []
    for i, (minus, causal) in enumerate(shapes):
        rows = [r for r in found if (-r["B"], r["causal"]) == (minus, causal)]
        rows = [r for r in rows if r["bytes"]] + [r for r in rows if not r["bytes"]]
        names = [_words(r, causal) for r in rows]
        bars = (
            ("predicted from bytes", [predicted_ms(r["bytes"], study) for r in rows], "floor"),
            ("copy of as many bytes", [r["floor_ms"] for r in rows], "sdpa-flash"),
            ("measured", [r["median_ms"] for r in rows], "book"),
        )
        for label, values, look in bars:
            data.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": label,
                    "y": names,
                    "x": values,
                    "hovertemplate": f"{label}<br>%{{y}}: %{{x:.3g}} ms<extra></extra>",
                    "marker": {"color": style.look(look).color},
                    "meta": [i],
                    "visible": i == 0,
                }
            )
        words = f"B = {-minus}, {style.order(causal)}"
        options.append(words)
        alts[str(i)] = f"{words}: " + "; ".join(
            f"{name} {style.number(r['median_ms'])} ms" for name, r in zip(names, rows, strict=True)
        )
        cells = [
            [name, *(style.number(values[j]) for _, values, _ in bars)]
            for j, name in enumerate(names)
        ]
        columns = ["kernel", *(f"{label} [ms]" for label, _, _ in bars)]
        numbers[str(i)] = Table(columns, cells, f"{words}; {study.line}.")
    layout = {
        "height": 380,
        "template": TEMPLATE,
        "margin": MARGIN | {"l": 130},
        "barmode": "group",
        "legend": LEGEND | {"traceorder": "normal"},
        "xaxis": {"title": {"text": "time [ms]"}, "rangemode": "tozero"},
        "yaxis": {"autorange": "reversed"},
    }
    source = style.sentence(study.line)
    return Figure(data, layout, alts, [Switch("Shape", options)], numbers, source)


def _words(row: dict, causal: bool) -> str:
    """What the chapter calls a kernel."""
    known = passes.of_kernel(row["kernel"], causal, row["launches"])
    if known:
        return "both state passes" if len(known) > 1 else known[0].name
    name = row["kernel"].split("::")[-1]
    small = {"combine_kernel": "adding parts", "mean_kernel": "the mean c"}
    return small.get(name, name if len(name) < 20 else "PyTorch")
