"""The optimization ladder as pictures and tables: predictions, cards, the table, two figures.

Everything is drawn from the study "journey" (`bench.study`), of which rows may be missing: then
there is a dash.
"""

import html
import textwrap
from dataclasses import dataclass

from kernels.steps.journey import STEPS, Step, named

from . import data_sheets, listings, style
from .diagrams import PALETTE, Curve, Drawing, Sketch, curves
from .figures import AXIS, TEMPLATE, Figure, Switch
from .reports import Report
from .studies import Study
from .tables import Table

LAUNCHES = 15  # of the Python loop, for a token
LAUNCH_MS = 5e-3  # of the host for one of them, a guess
LATENCY_MS = 0.7e-3  # of a load from memory, a guess
ISSUE = 4  # instructions that a multiprocessor starts in a cycle, one for each of its schedulers
OUTSIDE = 12  # tensors that PyTorch moves for φ and the denominator, beside the kernels' four
SAME = 0.02  # times closer than this are called the same
TILE = 64  # rows of a tile of the first steps


@dataclass(frozen=True)
class Prediction:
    """Between which times a step has to lie: all its costs overlap, or none of them does."""

    least: float
    most: float

    def __str__(self) -> str:
        if self.most < 1.02 * self.least:
            return style.number(self.least)
        return f"{style.number(self.least)} to {style.number(self.most)}"


class Card(Report):
    """A table, and others that open on a click unless they are `unfolded`; then machine code."""

    unfolded = False
    text = ""  # machine code

    def _repr_html_(self) -> str:
        first, *others = (table._repr_html_() for table in self)
        code = f'<div class="highlight"><pre tabindex="0">{html.escape(self.text)}</pre></div>'
        if self.text and not self.unfolded:
            others.append(code)
        shown = "\n".join(others)
        if others and not self.unfolded:
            heading = "<summary>Kernel by kernel, and what the compiler made of it</summary>"
            shown = f"<details>{heading}{shown}</details>"
        if self.text and self.unfolded:
            shown += f"<details><summary>Lines of the machine code</summary>{code}</details>"
        return f"{first}\n{shown}"

    def __str__(self) -> str:
        return "\n\n".join(filter(None, [super().__str__(), self.text]))

    __repr__ = __str__


@dataclass(frozen=True, repr=False)
class Folded(listings.Diff):
    """A diff that opens on a click."""

    heading: str

    def _repr_html_(self) -> str:
        shown = super()._repr_html_()
        return f"<details><summary>{html.escape(self.heading)}</summary>{shown}</details>"


@dataclass(frozen=True)
class Journey:
    """The study, read for what the chapter asks of it."""

    study: Study

    @property
    def gpu(self):
        return self.study.provenance

    @property
    def batches(self) -> list[int]:
        """The batch sizes that were measured, the largest first."""
        rows = self.study.select(part="step")
        return sorted({row["B"] for row in rows}, reverse=True)

    def row(self, step: str, B: int) -> dict:
        """The row of a step, or {} where there is none."""
        found = self.study.select(part="step", step=step, B=B)
        return found[0] if found else {}

    def ms(self, step: str, B: int) -> float | None:
        return self.row(step, B).get("median_ms")

    def copy_ms(self, B: int, name: str = "copy") -> float | None:
        """The time of a copy of all ideal bytes, or of "half" of them."""
        found = sorted(self.study.select(part="copy", B=B), key=lambda row: row["bytes"])
        times = [row["median_ms"] for row in found]
        return (times[0] if name == "half" else times[-1]) if times else None

    def share(self, step: str, B: int) -> float | None:
        """Copy speed is 1."""
        ms, copy = self.ms(step, B), self.copy_ms(B)
        return copy / ms if ms and copy else None

    def passes(self, step: str, B: int) -> dict[str, float]:
        """Milliseconds of a step by part: "state", "combine", "output", "kernel" and "PyTorch"."""
        times = {}
        for row in self.study.select(part="pass", step=step, B=B):
            if row["ms"] is not None:
                name = part_of(row["kernel"])
                times[name] = times.get(name, 0.0) + row["ms"]
        return times

    def code(self, step: str, which: str) -> dict:
        """What the compiler made of one kernel of a step, or {}."""
        found = self.study.select(part="code", step=step, **{"pass": which})
        return found[0] if found else {}

    def codes(self, step: str) -> list[dict]:
        return [row for row in self.study.select(part="code", step=step) if row["pass"]]

    def size(self, B: int) -> tuple[float, float, int]:
        """(bytes of one tensor, FLOPs of the operator, rows) at a batch size."""
        row = next(r for r in self.study.select(part="step", B=B))
        flops = 4 * B * row["H"] * row["N"] * row["D"] ** 2
        return row["bytes"] / 4, flops, row["N"]

    def instructions_ms(self, step: Step, which: str, B: int) -> float | None:
        """How long one pass takes to issue its instructions, if it did nothing else."""
        code = self.code(step.name, which)
        clock = self.gpu.sm_clock_mhz
        rows = code.get("rows") or (step.settings and getattr(step.settings, which).rows)
        if not (code.get("instructions") and clock and self.gpu.sm_count and rows):
            return None
        row = self.study.select(part="step", B=B)[0]
        tiles = B * row["H"] * row["N"] / rows
        each = code["loop"] or code["instructions"]  # without a loop, a program is one tile
        cycles = tiles * each * code["num_warps"] / (ISSUE * self.gpu.sm_count)
        return cycles / clock / 1e3

    def predicted(self, name: str, B: int) -> Prediction | None:
        """What the chapter predicts for a step; None where the GPU's data sheet is not known."""
        sheet, sms = data_sheets.of(self.gpu.gpu), self.gpu.sm_count
        if sheet is None or not sms or not self.study.select(part="step", B=B):
            return None
        step = named(name)
        tensor, flops, N = self.size(B)
        moved = [n * tensor / sheet.bandwidth * 1e3 for n in (4, OUTSIDE)]
        float32 = flops / sheet.float32 * 1e3
        if name == "python-loop":
            return Prediction(*[LAUNCHES * N * LAUNCH_MS] * 2)
        if name in ("whole-tensors", "tensor-cores"):
            return Prediction(*[sum(moved)] * 2)
        if name == "rows":
            return Prediction(*[moved[1] + 2 * N * LATENCY_MS] * 2)
        if name == "tiles":
            heads = flops / (4 * N * 64**2)
            product = float32 / 2 / heads / (N / TILE) * sms  # of a tile on one multiprocessor
            return Prediction(*[moved[1] + 2 * N / TILE * (LATENCY_MS + product)] * 2)
        if name == "split":
            return Prediction(moved[1] + max(moved[0], float32), sum(moved) + float32)
        issue = [self.instructions_ms(step, which, B) for which in ("state", "output")]
        if None in issue:
            return Prediction(moved[0], moved[0])
        halves = [max(moved[0] / 2, ms) for ms in issue]
        return Prediction(sum(halves), max(moved[0], self.copy_ms(B) or 0) + sum(issue))

    def verdict(self, name: str, B: int) -> str:
        """What a step was good for, beside the step that it changes."""
        row = self.row(name, B)
        if not row:
            return "not measured"
        if row["status"] != "ok":
            return "does not run" if row["status"] == "failed" else "wrong"
        before = named(name).before
        if before is None:
            return "where we start"
        old, new = self.ms(before, B), row["median_ms"]
        if not old or not new:
            return "–"
        return compared(new, old, before)

    # ------------------------------------------------------------------------------- tables

    def card(self, name: str, unfolded: bool = False) -> Card:
        """One step: idea, work, predicted and measured time; its kernels one by one, in time and
        as the compiler made them, and lines of their machine code, as far as they are recorded."""
        step, batches = named(name), self.batches
        sizes = [self.size(B) for B in batches]
        lines = [
            ["bytes [GB]", *(style.number(count(name) * tensor / 1e9) for tensor, _, _ in sizes)],
            ["FLOPs [10⁹]", *(style.number(flops / 1e9) for _, flops, _ in sizes)],
            ["predicted [ms]", *(str(self.predicted(name, B) or "–") for B in batches)],
            ["measured [ms]", *(style.number(self.ms(name, B)) for B in batches)],
            ["share of copy speed", *(self.percent(name, B) for B in batches)],
            ["verdict", *(self.verdict(name, B) for B in batches)],
        ]
        head = [name, *(f"B = {B}" for B in batches)]
        row = self.row(name, batches[0]) if batches else {}
        where = f"{step.idea[:1].upper()}{step.idea[1:]}. "
        where += f"N = {style.length(row['N'])}, D = {row['D']}; " if row else ""
        if row.get("scaled"):
            where += (
                f"measured at N = {style.length(row['measured_N'])} and multiplied by "
                f"{row['N'] // row['measured_N']}; "
            )
        if row.get("reason"):
            where += f"it says: {row['reason']}; "
        shown = [Table(head, lines, where + self.study.line + ".", words=tuple(head[1:]))]
        times = [self.passes(name, B) for B in batches]
        cells = [
            [part, *(style.number(found.get(part)) for found in times)]
            for part in ORDER
            if any(part in found for found in times)
        ]
        if cells:
            shown.append(Table(["kernel by kernel [ms]", *head[1:]], cells))
        codes = self.codes(name)
        if codes:
            cells = [
                [label, *(fact(row, key, scale) for row in codes)] for label, key, scale in FACTS
            ]
            shown.append(Table(["compiled", *(row["pass"] for row in codes)], cells))
        card = Card(shown)
        card.unfolded = unfolded
        found = [row["pass"] for row in self.study.select(part="text", step=name)]
        card.text = "\n\n".join(f"{which}:\n{self.excerpt(name, which)}" for which in found)
        return card

    def percent(self, name: str, B: int) -> str:
        share = self.share(name, B)
        return "–" if share is None else f"{style.number(100 * share, 2)}\u00a0%"

    def excerpt(self, name: str, which: str = "state") -> str:
        """Lines of machine code of a step's pass, without addresses, and how many more."""
        found = self.study.select(part="text", step=name, **{"pass": which})
        if not found:
            return "not recorded"
        kept, keep = [], False
        for line in found[0]["text"].splitlines():
            if not line.lstrip().startswith("…"):
                text = " ".join(line.split("*/")[-1].split())
                keep = "RZ, [RZ]" not in text and not text.startswith("DEPBAR")
                kept += [text] * keep
            elif keep:
                kept.append(line)
        return "\n".join(kept)

    def pytorch(self, name: str, B: int) -> Table:
        """The kernels of PyTorch in a step, one by one."""
        found = self.study.select(part="pass", step=name, B=B)
        found = [row for row in found if row["ms"] and part_of(row["kernel"]) == "PyTorch"]
        cells = [
            [short(row["kernel"]), f"{row['launches']:g}", style.number(row["ms"])] for row in found
        ]
        caption = f"PyTorch's kernels in {name}, B = {B}; {self.study.line}."
        return Table(["kernel", "launches", "together [ms]"], cells, caption)

    def table(self) -> Table:
        """All steps."""
        batches = self.batches
        head = ["step", "new in it", "tensors", *(f"predicted, B = {B}" for B in batches[:1])]
        for B in batches:
            head += [f"ms, B = {B}", f"of copy, B = {B}"]
        head += ["registers", "shared [KiB]", "spills [B]", "verdict"]
        lines = []
        for step in STEPS:
            line = [step.name, in_lines(step.idea), str(count(step.name))]
            line += [str(self.predicted(step.name, B) or "–") for B in batches[:1]]
            for B in batches:
                line.append(style.number(self.ms(step.name, B)))
                line.append(self.percent(step.name, B))
            codes = self.codes(step.name)
            for key, scale in (("registers", 1), ("shared_bytes", 1024), ("local_bytes", 1)):
                line.append(" / ".join(fact(c, key, scale) for c in codes) or "–")
            line.append(in_lines(self.verdict(step.name, batches[0])) if batches else "–")
            lines.append(line)
        row = self.row(STEPS[-1].name, batches[0]) if batches else {}
        caption = (
            "Times in ms; tensors of [B, H, N, D] that cross the bus; registers, shared memory and "
            "spills of the state pass / output pass; "
        )
        if row:
            size = f"(B, {row['H']}, {style.length(row['N'])}, {row['D']}), {row['dtype']}"
            flops = self.size(batches[0])[1] / 1e9
            caption += f"{size}, {style.number(flops)} GFLOP at B = {batches[0]} in every step; "
        caption += f"{self.study.line}."
        return Table(head, lines, caption, words=("new in it", "verdict"))

    # ------------------------------------------------------------------------------ figures

    def ladder(self, first: str = STEPS[0].name, log: bool = True) -> Figure:
        """The times of the steps from `first` on as bars, predictions as marks, the copy a line."""
        data, alts, numbers = [], {}, {}
        names = [step.name for step in STEPS]
        names = names[names.index(first) :]
        for i, B in enumerate(self.batches):
            times = [self.ms(name, B) for name in names]
            said = [self.predicted(name, B) for name in names]
            copy = self.copy_ms(B)
            hover = [
                f"<b>{name}</b>: {style.number(ms)} ms, predicted {p or '–'}"
                for name, ms, p in zip(names, times, said, strict=True)
            ]
            common = {"y": names, "orientation": "h", "meta": [i], "visible": i == 0}
            data.append(
                {
                    **common,
                    "type": "bar",
                    "x": times,
                    "name": "measured",
                    "marker": {"color": PALETTE[0], "opacity": 0.6},
                    "hovertext": hover,
                    "hoverinfo": "text",
                }
            )
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": "predicted",
                    "x": [p and (p.least * p.most) ** 0.5 for p in said],
                    "y": names,
                    "error_x": {
                        "type": "data",
                        "symmetric": False,
                        "array": [p and p.most - (p.least * p.most) ** 0.5 for p in said],
                        "arrayminus": [p and (p.least * p.most) ** 0.5 - p.least for p in said],
                        "color": PALETTE[5],
                        "thickness": 3,
                    },
                    "marker": {"color": PALETTE[5], "symbol": "line-ns-open", "size": 12},
                    "hovertext": hover,
                    "hoverinfo": "text",
                    "meta": [i],
                    "visible": i == 0,
                }
            )
            if copy:
                data.append(
                    {
                        "type": "scatter",
                        "mode": "lines",
                        "name": "copy of the same bytes",
                        "x": [copy, copy],
                        "y": [names[0], names[-1]],
                        "line": {"color": style.GREY, "dash": "dot", "width": 2},
                        "hoverinfo": "skip",
                        "meta": [i],
                        "visible": i == 0,
                    }
                )
            there = [(n, ms) for n, ms in zip(names, times, strict=True) if ms]
            ends = "; ".join(f"{n} {style.number(ms)} ms" for n, ms in there)
            what = f"Time of every step from {first} on, B = {B}"
            alts[str(i)] = f"{what}: {ends}. A copy: {style.number(copy)} ms."
            body = [
                [name, str(p or "–"), style.number(ms), self.percent(name, B)]
                for name, ms, p in zip(names, times, said, strict=True)
            ]
            columns = ["step", "predicted [ms]", "measured [ms]", "of copy"]
            numbers[str(i)] = Table(columns, body, f"B = {B}; {self.study.line}.")
        axis = {"title": {"text": "time [ms]"}, "rangemode": "tozero"}
        if log:
            decades = [10.0**e for e in range(-2, 5)]
            ticks = {"tickvals": decades, "ticktext": [*map(style.number, decades)]}
            axis = {"title": {"text": "time [ms]"}, "type": "log", **ticks}
        layout = {
            "height": 150 + 22 * len(names),
            "template": TEMPLATE,
            "margin": {"l": 104, "r": 12, "t": 8, "b": 96},
            "legend": {"orientation": "h", "x": 0, "y": -66 / (22 * len(names)), "yanchor": "top"},
            "barmode": "overlay",
            "hovermode": "closest",
            "xaxis": axis,
            "yaxis": {"autorange": "reversed", "showgrid": False, "ticksuffix": " "},
        }
        switch = Switch("Batch", [f"B = {B}" for B in self.batches])
        return Figure(data, layout, alts, [switch], numbers, self.source)

    def mix(self, which: str, names: list[str]) -> Figure:
        """Instructions that a warp issues for each row of tokens, by class, for some steps."""
        shown = [(n, self.code(n, which)) for n in names]
        shown = [(n, row) for n, row in shown if row.get("loop") is not None]
        data = []
        for i, (label, classes) in enumerate(KINDS.items()):
            each = []
            for name, row in shown:
                kind = "loop" if row["loop"] else "all"
                issued = sum(row.get(f"{kind}: {c}") or 0 for c in classes) * row["num_warps"]
                each.append(issued / getattr(named(name).settings, which).rows)
            data.append(
                {
                    "type": "bar",
                    "orientation": "h",
                    "name": label,
                    "x": each,
                    "y": [n for n, _ in shown],
                    "marker": {"color": (*PALETTE, style.GREY)[i]},
                    "hovertemplate": f"{label}: %{{x:.3g}}<extra></extra>",
                    "meta": [0],
                }
            )
        said = "; ".join(
            f"{n}: " + ", ".join(f"{d['name']} {style.number(d['x'][i])}" for d in data if d["x"])
            for i, (n, _) in enumerate(shown)
        )
        layout = {
            "height": 130 + 42 * max(1, len(shown)) + 70,
            "template": TEMPLATE,
            "margin": {"l": 104, "r": 12, "t": 8, "b": 120},
            "barmode": "stack",
            "legend": {"orientation": "h", "x": 0, "y": -0.55, "yanchor": "top"},
            "xaxis": {"title": {"text": "warp instructions a row"}},
            "yaxis": {"autorange": "reversed", "showgrid": False, "ticksuffix": " "},
        }
        alt = f"Instructions of the {which} pass for each row: {said}."
        body = [[n, *(style.number(d["x"][i]) for d in data)] for i, (n, _) in enumerate(shown)]
        numbers = Table(["step", *KINDS], body, f"Warp instructions a row; {self.study.line}.")
        return Figure(data, layout, {"0": alt}, [], {"0": numbers}, self.source)

    def wave_rows(self, B: int) -> list[dict]:
        found = [r for r in self.study.select(part="waves", B=B) if r["median_ms"]]
        return sorted(found, key=lambda row: row["programs"])

    def wave_ms(self, row: dict) -> float | None:
        """One wave after another; no program draws more than a multiprocessor's share."""
        half, sms = self.copy_ms(row["B"], "half"), self.gpu.sm_count
        fit = self.code("wide", "state").get("resident")
        if not (half and sms and fit):
            return None
        rows = row["tiles"] * named("wide").settings.state.rows  # of a program, in whole tiles
        more = rows * row["programs"] / (row["B"] * row["H"] * row["N"])
        return half * more * sum(time for _, time in waves_of(row["programs"], sms, fit))

    def waves(self) -> Figure | None:
        """The state pass over the number of its programs, measured and predicted."""
        panels, alts = {}, []
        for B in self.batches:
            rows = self.wave_rows(B)
            if not rows:
                continue
            x = [row["programs"] for row in rows]
            times = [row["median_ms"] for row in rows]
            drawn = [Curve("measured", x, times, "book")]
            said = [self.wave_ms(row) for row in rows]
            if None not in said:
                drawn.append(Curve("predicted", x, said, "sdpa-flash"))
                copy = self.copy_ms(B, "half")
                drawn.append(Curve("copy of the same bytes", x, [copy] * len(x), "floor", False))
            panels[f"B = {B}"] = drawn
            ends = ", ".join(f"{p}: {style.number(ms)} ms" for p, ms in zip(x, times, strict=True))
            alts.append(f"Time of the state pass by programs, B = {B}: {ends}.")
        if not panels:
            return None
        drawn = curves(
            panels, x="programs", y="time [ms]", alts=alts, switch="Batch", source=self.source
        )
        sms = self.gpu.sm_count or 132
        marks = [sms // 4, sms // 2, *(sms << i for i in range(5))]
        drawn.layout["xaxis"] |= {"type": "log", "tickvals": marks, "ticktext": [*map(str, marks)]}
        return drawn

    @property
    def source(self) -> str:
        return style.sentence(self.study.line)

    def explorer(self) -> Figure:
        """Choose a step: its place under the roofline, and where its time goes."""
        sheet = data_sheets.of(self.gpu.gpu)
        names, batches = [step.name for step in STEPS], self.batches
        data, alts, numbers = [], {}, {}
        if sheet:
            data += roofs(sheet)
        for j, B in enumerate(batches):
            places = [self.place(name, B) for name in names]
            shown = [p for p in places if p]
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": "all steps",
                    "x": [p[0] for p in shown],
                    "y": [p[1] for p in shown],
                    "text": [n for n, p in zip(names, places, strict=True) if p],
                    "hovertemplate": "%{text}<extra></extra>",
                    "marker": {"color": style.GREY, "size": 6},
                    "showlegend": False,
                    "meta": [None, j],
                    "visible": j == 0,
                }
            )
            for i, name in enumerate(names):
                first = i == 0 and j == 0
                data += self._chosen(name, B, [i, j], first)
                alts[f"{i},{j}"] = self._words(name, B)
                numbers[f"{i},{j}"] = self._bar_table(name, B)
        switches = [Switch("Step", names), Switch("Batch", [f"B = {B}" for B in batches])]
        return Figure(data, EXPLORER, alts, switches, numbers, self.source)

    def place(self, name: str, B: int) -> tuple[float, float] | None:
        """(FLOPs for each byte that crosses the bus, TFLOP/s) of a step."""
        ms = self.ms(name, B)
        if not ms:
            return None
        tensor, flops, _ = self.size(B)
        return flops / (count(name) * tensor), flops / ms / 1e9

    def _chosen(self, name: str, B: int, meta: list, first: bool) -> list[dict]:
        place = self.place(name, B)
        common = {"meta": meta, "visible": first, "showlegend": False}
        found = []
        if place:
            found.append(
                {
                    **common,
                    "type": "scatter",
                    "mode": "markers+text",
                    "x": [place[0]],
                    "y": [place[1]],
                    "text": [name],
                    "textposition": "bottom center",
                    "marker": {"color": PALETTE[0], "size": 12},
                    "hovertemplate": "%{x:.3g} FLOPs a byte<br>%{y:.3g} TFLOP/s<extra></extra>",
                }
            )
        for label, parts in self._bars(name, B).items():
            for part, ms in parts.items():
                found.append(
                    {
                        **common,
                        "type": "bar",
                        "orientation": "h",
                        "xaxis": "x2",
                        "yaxis": "y2",
                        "x": [ms],
                        "y": [label],
                        "text": [part],
                        "textposition": "inside",
                        "insidetextanchor": "middle",
                        "textangle": 0,
                        "textfont": {"color": "#ffffff"},
                        "marker": {"color": COLOURS.get(part, style.GREY)},
                        "hovertemplate": f"{part}: %{{x:.3g}} ms<extra></extra>",
                    }
                )
        return found

    def _bars(self, name: str, B: int) -> dict[str, dict[str, float]]:
        """Label of a bar -> {part: ms}: the copy, the bytes at full speed, what was measured."""
        bars = {}
        copy, ms = self.copy_ms(B), self.ms(name, B)
        if copy:
            bars["copy"] = {"copy": copy}
        sheet = data_sheets.of(self.gpu.gpu)
        if sheet:
            tensor, _, _ = self.size(B)
            each = tensor / sheet.bandwidth * 1e3
            one = len(named(name).kernels) == 1
            parts = {"kernel": 4 * each} if one else {"state": 2 * each, "output": 2 * each}
            if count(name) > 4:
                parts = {"PyTorch": (count(name) - 4) * each, **parts}
            if not named(name).kernels and name != "library":
                parts = {"PyTorch": count(name) * each}
            bars["bytes"] = parts
        if ms:
            parts = self.passes(name, B)
            if not parts:
                parts = {"PyTorch": ms}
            rest = ms - sum(parts.values())
            if rest > 0.02 * ms:
                parts["between"] = rest
            bars["time"] = {part: parts[part] for part in ORDER if part in parts}
        return bars

    def _bar_table(self, name: str, B: int) -> Table:
        body = [
            [label, part, style.number(ms)]
            for label, parts in self._bars(name, B).items()
            for part, ms in parts.items()
        ]
        place = self.place(name, B)
        where = f"{style.number(place[0])} FLOPs a byte, " if place else ""
        rate = f"{style.number(place[1])} TFLOP/s, " if place else ""
        caption = f"{name}, B = {B}: {where}{rate}{self.study.line}."
        return Table(["bar", "part", "time [ms]"], body, caption, words=("part",))

    def _words(self, name: str, B: int) -> str:
        bars = self._bars(name, B)
        said = []
        for label, parts in bars.items():
            inside = ", ".join(f"{part} {style.number(ms)} ms" for part, ms in parts.items())
            said.append(f"{label}: {inside}")
        return f"{name}, B = {B}. {'; '.join(said)}."


ORDER = ("PyTorch", "kernel", "state", "combine", "output", "between")
COLOURS = {
    "PyTorch": PALETTE[3],
    "kernel": PALETTE[0],
    "state": PALETTE[1],
    "combine": PALETTE[4],
    "output": PALETTE[2],
    "copy": style.GREY,
    "between": style.GREY,
}
KINDS = {
    "tensor cores": ("tensor cores",),
    "exponentials": ("special functions",),
    "floating point": ("floating point", "conversion"),
    "shared memory": ("shared memory", "asynchronous copy"),
    "global memory": ("global memory", "local memory"),
    "addresses, moves": ("integers and addresses", "moves"),
    "waiting": ("synchronization",),
}
FACTS = (
    ("registers a thread", "registers", 1),
    ("spilled bytes a thread", "local_bytes", 1),
    ("shared memory [KiB]", "shared_bytes", 1024),
    ("programs that fit", "resident", 1),
    ("instructions of the loop", "loop", 1),
    ("instructions in all", "instructions", 1),
)
EXPLORER = {
    "height": 560,
    "template": TEMPLATE,
    "margin": {"l": 64, "r": 12, "t": 8, "b": 56},
    "hovermode": "closest",
    "barmode": "stack",
    "showlegend": False,
    "xaxis": AXIS
    | {
        "type": "log",
        "title": {"text": "FLOPs for each byte that is moved"},
        "domain": [0, 1],
        "anchor": "y",
        "tickvals": [1, 4, 16, 64, 256],
    },
    "yaxis": AXIS
    | {
        "type": "log",
        "title": {"text": "TFLOP/s"},
        "domain": [0.48, 1],
        "tickvals": [0.01, 0.1, 1, 10, 100, 1000],
    },
    "xaxis2": AXIS | {"title": {"text": "time [ms]"}, "anchor": "y2", "rangemode": "tozero"},
    "yaxis2": {"domain": [0, 0.32], "autorange": "reversed", "anchor": "x2", "ticksuffix": " "},
}


def part_of(kernel: str) -> str:
    """Which part of a step a kernel of the profiler belongs to."""
    for part in ("state", "combine", "output"):
        if kernel.startswith(f"{part}_kernel"):
            return part
    return "kernel" if kernel.startswith("attention_kernel") else "PyTorch"


def compared(new: float, old: float, before: str) -> str:
    """A time in words, beside that of a step called `before`."""
    if abs(old / new - 1) < SAME:
        return f"the same as {before}"
    if new > 1.5 * old:
        return f"{style.number(new / old)} times the time of {before}"
    if new > old:
        return f"{style.number(100 * (new / old - 1), 2)} % slower than {before}"
    if old / new < 1.5:
        return f"{style.number(100 * (1 - new / old), 2)} % less time than {before}"
    return f"{style.number(old / new)} times as fast as {before}"


def count(name: str) -> int:
    """How many tensors of [B, H, N, D] cross the bus in a step.

    What the loop in Python rewrites for each token is not counted: it fits into the L2 cache.
    """
    order = [step.name for step in STEPS]
    if name == "python-loop":
        return 4
    return 4 + OUTSIDE if order.index(name) < order.index("fused") else 4


def fact(row: dict, key: str, scale: int) -> str:
    if row.get(key) is None:
        return "–"
    return str(row[key]) if scale == 1 else style.number(row[key] / scale)


def in_lines(text: str, width: int = 20) -> str:
    """The same, but to be broken only into lines of about that width."""
    lines = textwrap.wrap(text, width, break_on_hyphens=False)
    return " ".join(line.replace(" ", "\u00a0") for line in lines)


def short(kernel: str) -> str:
    """The name of a kernel of PyTorch without its namespaces."""
    name = kernel.removeprefix("void ").split("::")[-1]
    return name if len(name) < 34 else name[:32] + " …"


def waves_of(programs: int, sms: int, fit: int) -> list[tuple[int, float]]:
    """(programs, time) of each wave; the time in that of all bytes at the memory's full rate."""
    full, rest = divmod(programs, sms * fit)
    sizes = [sms * fit] * full + [rest] * bool(rest)
    return [(n, max(n, sms) / programs) for n in sizes]


def wave_drawing(heads: int = 64, parts=(4, 5, 8), sms: int = 132, fit: int = 2) -> Drawing:
    """Grids as boxes: a wave is as wide as it takes and as high as it has programs."""
    s, said, height, one = Sketch("waves"), [], 74, 330
    for i, many in enumerate(parts):
        top, left = 34 + i * (height + 44), 8
        waves = waves_of(heads * many, sms, fit)
        total = sum(time for _, time in waves)
        said.append(
            f"{many} parts are {heads * many} programs in waves of "
            f"{' and '.join(str(n) for n, _ in waves)}, {total:.2f} of the time"
        )
        s.text(8, top - 8, f"{many} parts, {heads * many} programs: {total:.2f}", size=14)
        for j, (n, time) in enumerate(waves):
            w, h = time * one, height * n / (sms * fit)
            color = PALETTE[(1, 0)[j % 2]]
            s.box(left, top + height - h, w - 2, h, color, opacity=0.35)
            if h > 20:
                s.text(left + w / 2, top + height - h / 2 + 5, str(n), "middle", 14)
            else:  # above the box, and away from the line of the copy
                s.text(left + w - 4, top + height - h - 5, str(n), "end", 14)
            left += w
    end = 8 + one
    bottom = 34 + len(parts) * (height + 44) - 20
    s.line(end, 34, end, bottom, dashed=True)
    s.text(end, bottom + 16, "copy", "middle", 14)
    alt = f"Waves of the state pass, {sms * fit} programs fit: {'; '.join(said)} of a copy."
    return s.drawing(440, bottom + 22, alt, widest=560)


def roofs(sheet) -> list[dict]:
    """The lines that no step can pass: the memory, and the two kinds of arithmetic."""
    lowest, highest = 1, 512
    found = []
    for label, rate, dash in (
        ("tensor cores", sheet.matrix, "solid"),
        ("float32", sheet.float32, "dash"),
    ):
        ridge = rate / sheet.bandwidth
        x = [lowest, min(max(ridge, lowest), highest), highest]
        y = [min(rate, sheet.bandwidth * at) / 1e12 for at in x]
        found.append(
            {
                "type": "scatter",
                "mode": "lines+text",
                "name": label,
                "x": x,
                "y": y,
                "text": ["", "", label],
                "textposition": "top left",
                "line": {"color": style.GREY, "dash": dash, "width": 2},
                "hovertemplate": f"{label}<extra></extra>",
                "meta": [None, None],
            }
        )
    return found


def changes(name: str, context: int = 1, folded: bool = False) -> listings.Diff:
    """What a step changed of the one before it, over all its marked regions.

    Where these have other names than those of the step before, all kernels of the two.
    """
    step = named(name)
    before = named(step.before)
    held = [(_holder(before, region), (module, region)) for module, region in step.regions]
    if all(old for old, _ in held):
        texts = [listings.diff(old, *new, context).text for old, new in held]
    elif whole(before) != whole(step):
        texts = [listings.between(whole(before), whole(step), context).text]
    else:  # the same kernels, and something beside them that is new
        texts = [listings.between("", listings.region(*new)).text for _, new in held]
    text = f" {listings.APART}\n".join(filter(None, texts))
    return Folded(text, f"The diff from {before.name}") if folded else listings.Diff(text)


def whole(step: Step) -> str:
    """The text of a step's kernels, or of its function."""
    for names in (("state-kernel", "output-kernel"), ("state", "output"), ("kernel",)):
        held = [(_holder(step, region), region) for region in names]
        if all(module for module, _ in held):
            return "\n\n".join(listings.region(*one) for one in held)
    raise ValueError(f"{step.name} has no code")


def _holder(step: Step, region: str):
    """The module that holds the region of this name in a step, or else in those before it."""
    while True:
        for module, name in step.regions:
            if name == region:
                return module
        if step.before is None:
            return None
        step = named(step.before)
