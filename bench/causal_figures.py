"""Figures of causal scans: which program does what when, and which query sees which key.

They use the format of `bench.figures` and the look of `bench.diagrams`.
"""

import heapq
from dataclasses import dataclass

from kernels.steps.causal import STEPS

from . import data_sheets, style
from .diagrams import PALETTE, Axis, Curve, curves
from .figures import AXIS, LEGEND, TEMPLATE, Figure, Switch, by_gpu
from .journey import compared
from .studies import Study
from .tables import Table
from .triton_figures import Grid, grids

SCANS = ("sequential", "segmented", "chained")
COUNTS = (2, 4, 8, 16)  # segments of a head
HEADS, CHUNKS, SLOTS = 2, 16, 8
SUM, OUTPUT, PREFIX, LINK = 1, 2, 1, 0.5  # units of time: two for a chunk, one step, one handing on
COLORS = {
    "sum a segment": PALETTE[1],
    "prefix of the sums": PALETTE[3],
    "wait for the one before": PALETTE[4],
    "output": PALETTE[0],
}


@dataclass(frozen=True)
class Task:
    """What one place on the GPU does from `begin` to `end`, for which segment of which head."""

    slot: int
    kind: str  # a key of COLORS
    begin: float
    end: float
    who: str


def sequential() -> list[Task]:
    """One program a head, which walks all chunks."""
    return [
        Task(h, "output", 0.0, float(CHUNKS * OUTPUT), f"head {h}, all chunks")
        for h in range(HEADS)
    ]


def segmented(segments: int) -> list[Task]:
    """Three launches, each of which begins when the one before has ended."""
    share, tasks, now = CHUNKS // segments, [], 0.0
    for kind, length in (("sum a segment", share * SUM), ("output", share * OUTPUT)):
        free = [(now, slot) for slot in range(SLOTS)]
        for segment in range(segments):
            for head in range(HEADS):
                begin, slot = heapq.heappop(free)
                tasks.append(Task(slot, kind, begin, begin + length, _who(head, segment)))
                heapq.heappush(free, (begin + length, slot))
        now = max(task.end for task in tasks)
        if kind == "sum a segment":
            tasks.append(Task(0, "prefix of the sums", now, now + PREFIX, "all segments"))
            now += PREFIX
    return tasks


def chained(segments: int) -> list[Task]:
    """One launch: sum, wait for what came before, hand on, output."""
    share, tasks = CHUNKS // segments, []
    free = [(0.0, slot) for slot in range(SLOTS)]
    handed_on = [0.0] * HEADS  # when the state of the segment before is there
    for segment in range(segments):
        for head in range(HEADS):
            begin, slot = heapq.heappop(free)
            summed = begin + share * SUM
            ready = max(summed, handed_on[head])
            handed_on[head] = ready + LINK
            end = ready + LINK + share * OUTPUT
            who = _who(head, segment)
            tasks.append(Task(slot, "sum a segment", begin, summed, who))
            tasks.append(Task(slot, "wait for the one before", summed, ready + LINK, who))
            tasks.append(Task(slot, "output", ready + LINK, end, who))
            heapq.heappush(free, (end, slot))
    return tasks


def _who(head: int, segment: int) -> str:
    return f"head {head}, segment {segment}"


def tasks_of(scan: str, segments: int) -> list[Task]:
    """The schedule of a scan of SCANS."""
    return sequential() if scan == "sequential" else globals()[scan](segments)


def scans() -> Figure:
    """Who does what when: a switch for the scan and one for the segments of a head."""
    data, alts, numbers = [], {}, {}
    for i, scan in enumerate(SCANS):
        for j, segments in enumerate(COUNTS):
            tasks = tasks_of(scan, segments)
            first = i == 0 and j == 0
            for kind, color in COLORS.items():
                mine = [t for t in tasks if t.kind == kind and t.end > t.begin]
                if mine:
                    data.append(_bars(kind, color, mine, [i, j], first))
            end = max(t.end for t in tasks)
            busy = sum(t.end - t.begin for t in tasks if not t.kind.startswith("wait"))
            share = busy / (SLOTS * end)
            data.append(_end(f"{end:g} units, busy {100 * share:.0f} %", end, [i, j], first))
            cut = "not cut" if scan == "sequential" else f"{segments} segments a head"
            alts[f"{i},{j}"] = (
                f"{scan}, {cut}: done after {end:g} units of time, in which the {SLOTS} places "
                f"are busy for {100 * share:.0f} percent."
            )
            launches = {"sequential": 1, "segmented": 3, "chained": 1}[scan]
            times = 1 if scan == "sequential" else 2
            numbers[f"{i},{j}"] = Table(
                ["scan", "segments", "units of time", "busy", "launches", "k and v are loaded"],
                [[scan, cut, f"{end:g}", f"{100 * share:.0f} %", str(launches),
                  "once" if times == 1 else "twice"]],
            )  # fmt: skip
    axis = AXIS | {"fixedrange": True}
    layout = {
        "height": 380,
        "template": TEMPLATE,
        "margin": {"l": 64, "r": 12, "t": 8, "b": 110},
        "barmode": "overlay",
        "hovermode": "closest",
        "legend": LEGEND,
        "xaxis": axis | {"title": {"text": "units of time"}, "range": [0, CHUNKS * OUTPUT + 1]},
        "yaxis": axis
        | {
            "title": {"text": "place for a program"},
            "range": [SLOTS + 0.5, -0.6],
            "tickvals": list(range(SLOTS)),
            "showgrid": False,
        },
    }
    source = (
        f"A schedule, not a measurement: {HEADS} heads of {CHUNKS} chunks, {SLOTS} places for a "
        f"program; to sum a chunk takes {SUM} unit, its output {OUTPUT}, the prefix {PREFIX}, to "
        f"hand on a state {LINK}. The memory is taken to keep up."
    )
    switches = [Switch("Scan", list(SCANS)), Switch("Segments of a head", [*map(str, COUNTS)])]
    return Figure(data, layout, alts, switches, numbers, source)


def _end(words, end, meta, visible) -> dict:
    """A line where everything is done, and what it cost."""
    return {
        "type": "scatter",
        "mode": "lines+text",
        "x": [end, end],
        "y": [-0.5, SLOTS],
        "text": ["", words],
        "textposition": "middle left",
        "line": {"color": style.GREY, "width": 1.5, "dash": "dot"},
        "hoverinfo": "skip",
        "showlegend": False,
        "meta": meta,
        "visible": visible,
    }


def _bars(kind, color, tasks, meta, visible) -> dict:
    return {
        "type": "bar",
        "orientation": "h",
        "name": kind,
        "showlegend": True,
        "y": [t.slot for t in tasks],
        "base": [t.begin for t in tasks],
        "x": [t.end - t.begin for t in tasks],
        "width": 0.8,
        "customdata": [f"{t.who}: {kind}, {t.begin:g} to {t.end:g}" for t in tasks],
        "hovertemplate": "%{customdata}<extra></extra>",
        "marker": {"color": color, "line": {"color": "rgba(128,128,128,0.8)", "width": 1}},
        "meta": meta,
        "visible": visible,
    }


def seen(found: dict[str, list[list[float]]], chunk: int, *, source: str = "") -> Figure:
    """Which key reaches which query: `found` maps a kernel to its weights [query][key].

    A weight of a later key is a leak, and gets a colour of its own.
    """
    panels = {}
    for name, weights in found.items():
        text, shade, hover, leaks = [], [], [], 0
        for i, row in enumerate(weights):
            marks = [abs(w) > 1e-6 for w in row]
            late = [mark and j > i for j, mark in enumerate(marks)]
            leaks += sum(late)
            text.append(["!" if late[j] else "" for j in range(len(row))])
            pairs = [i // chunk == j // chunk for j in range(len(row))]
            shade.append(
                [
                    (0 if late[j] else 1 if pairs[j] else 2) if mark else None
                    for j, mark in enumerate(marks)
                ]
            )
            hover.append(
                [
                    f"query {i}, key {j}: "
                    + ("from the future" if late[j] else "a pair" if pairs[j] else "by the state")
                    for j in range(len(row))
                ]
            )
        words = f"{leaks} keys reach a query before them" if leaks else "no key comes from later"
        alt = f"{name}: {words}; chunks of {chunk}, {len(weights)} tokens."
        panels[f"{name} ({leaks or 'no'} leaks)"] = Grid(text, shade, alt, hover)
    return grids(panels, switch="Kernel", x="key", y="query", source=source, height=430)


# ------------------------------------------------------------------------- what was measured


def memory(shown: list[Study]) -> Figure | Table:
    """The most memory that all states at once hold, by length."""
    return by_gpu(shown, _memory)


def segments(shown: list[Study]) -> Figure | Table:
    """Time of two passes by the segments of a head."""
    return by_gpu(
        shown, lambda study: _by_batch(study, "segments", _segments, "segments of a head")
    )


def links(shown: list[Study]) -> Figure | Table:
    """Time of a chain by the tokens of a segment."""
    return by_gpu(shown, lambda study: _by_batch(study, "link", _links, "tokens of a segment"))


def chunks(shown: list[Study]) -> Figure | Table:
    """Time of two passes by chunk size, and what it is at least."""
    more = (
        "The first line and the copy are measured; the others are counted, at the data "
        "sheet's rate and the highest clock. "
    )
    return by_gpu(shown, lambda study: _by_batch(study, "chunk", _chunks, "chunk C", more))


def timed(study: Study, part: str, **wanted) -> list[dict]:
    """The rows of a part of the study that have a time."""
    return [r for r in study.select(part=part, **wanted) if r.get("median_ms")]


def best_warps(study: Study, B: int) -> list[dict]:
    """The row of each chunk size with the faster number of warps, short chunks first."""
    rows = sorted(timed(study, "chunk", B=B), key=lambda r: -r["median_ms"])
    return sorted({r["chunk"]: r for r in rows}.values(), key=lambda r: r["chunk"])


def issue_ms(study: Study, row: dict) -> float | None:
    """What it takes at least to issue the instructions of all turns of both passes."""
    clock, places = study.provenance.sm_clock_max_mhz, study.provenance.sm_count
    state = (study.select(part="compiled", kernel="state_kernel") or [{}])[0]
    if not (row.get("loop") and state.get("loop") and clock and places):
        return None
    tokens = row["B"] * row["H"] * row["N"]
    each = row["loop"] * row["num_warps"] / row["chunk"]
    each += state["loop"] * state["num_warps"] / 64
    return tokens * each / (places * 4 * clock * 1e3)


def tensor_ms(study: Study, row: dict) -> float | None:
    """Both passes on the tensor cores at the rate of the data sheet, D = 64."""
    sheet = data_sheets.of(study.provenance.gpu)
    tokens = row["B"] * row["H"] * row["N"]
    flops = 256 * row["chunk"] + 1.5 * 16384  # k and v are summed twice
    return 1e3 * tokens * flops / sheet.matrix if sheet else None


# the step that each one changes or stands beside, in the order of the chapter
BEFORE = {
    "cumulative": None,
    "recurrent": "cumulative",
    "chunked": "recurrent",
    "normalized": "chunked",
    "segmented": "normalized",
    "atomics": "segmented",
    "chained": "segmented",
    "library": "segmented",
}


def ladder(study: Study, said: dict[str, str]) -> Table:
    """All steps and the library: predictions `said`, times, shares of a copy, code, verdicts."""
    ideas = {step.name: step.idea for step in STEPS}
    ideas["library"] = "two passes or a chain, as heads allow"
    kernels = {step.name: step.kernels[-1][1] for step in STEPS if step.kernels}
    kernels["atomics"] = kernels["segmented"]  # its last launch is the same output pass
    lines = []
    for name in BEFORE:
        line = [name, ideas[name], said.get(name, "–")]
        for B in (8, 1):
            row = (study.select(part="step", step=name, B=B) or [{}])[0]
            ms, copy = row.get("median_ms"), row.get("floor_ms")
            line.append(style.number(ms) if ms else row.get("status") or "–")
            line.append(style.number(copy / ms, 2) if ms and copy else "–")
        code = (study.select(part="compiled", kernel=kernels.get(name)) or [{}])[0]
        facts = [code.get(column) for column in ("registers", "local", "shared")]
        line += ["–" if fact is None else str(fact) for fact in facts]
        lines.append([*line, verdict(study, name)])
    head = ["step", "new in it", "predicted, B = 8 [ms]", "B = 8 [ms]", "of copy, B = 8"]
    head += ["B = 1 [ms]", "of copy, B = 1", "registers", "spilled bytes", "shared bytes"]
    caption = (
        "(B, 8, 65536, 64), bfloat16; registers and spilled bytes of a thread and shared memory of "
        f"a program of the step's main kernel; {study.line}."
    )
    words = ("new in it", "predicted, B = 8 [ms]", "verdict")
    return Table([*head, "verdict"], lines, caption, words=words)


def verdict(study: Study, name: str) -> str:
    """What a step was good for, beside the one before it, at the largest batch with both times."""
    before = BEFORE[name]
    if before is None:
        return "where we start"
    rows = study.select(part="step", step=name)
    if rows and all(row["status"] != "ok" for row in rows):
        return "does not run" if rows[0]["status"] == "failed" else "wrong"
    for B in (8, 1):
        new, old = (
            next((r["median_ms"] for r in study.select(part="step", step=step, B=B)), None)
            for step in (name, before)
        )
        if new and old:
            return compared(new, old, before) + ("" if B == 8 else f", B = {B}")
    return "–"


def _memory(study: Study) -> Figure | None:
    held = timed(study, "cumulative")
    if not held:
        return None
    lengths, gib = [r["N"] for r in held], [r["peak_MiB"] / 1024 for r in held]
    drawn = [
        Curve("predicted", lengths, [n / 4096 for n in lengths], "floor", False),
        Curve("measured", lengths, gib, "book"),
    ]
    alt = f"Up to {style.number(gib[-1])} GiB at N = {style.length(lengths[-1])}."
    y, source = _log_axis("most memory held [GiB]"), style.sentence(study.line)
    return curves({"all": drawn}, x="N", y=y, log=True, alts=[alt], source=source)


def _by_batch(study: Study, part: str, draw, x: str, more: str = "") -> Figure:
    """`draw(study, rows)` gives the curves of a batch and how its fastest row is called."""
    panels, alts = {}, []
    for B in sorted({r["B"] for r in timed(study, part)}, reverse=True):
        drawn, least, where = draw(study, timed(study, part, B=B))
        panels[f"B = {B}"] = drawn
        alts.append(f"B = {B}: the least time is {style.number(least)} ms with {where}.")
    return curves(
        panels,
        x=x,
        y=_log_axis("time [ms]"),
        alts=alts,
        log=True,
        switch="Batch",
        source=more + style.sentence(study.line),
    )


def _segments(study: Study, rows: list[dict]):
    counts = [r["segments"] for r in rows]
    best = min(rows, key=lambda r: r["median_ms"])
    drawn = [
        Curve("segmented", counts, [r["median_ms"] for r in rows], "book"),
        Curve("copy, times 6/4", counts, [1.5 * r["floor_ms"] for r in rows], "floor", False),
    ]
    return drawn, best["median_ms"], f"{best['segments']} segments"


def _links(study: Study, rows: list[dict]):
    tokens = [r["segment"] for r in rows]
    best = min(rows, key=lambda r: r["median_ms"])
    each = [r["N"] / 1e3 / r["segment"] for r in rows]  # a microsecond for each link of a head
    drawn = [
        Curve("chained", tokens, [r["median_ms"] for r in rows], "book"),
        Curve("links of 1 µs", tokens, each, "sdpa-flash", False),
        Curve("copy", tokens, [r["floor_ms"] for r in rows], "floor", False),
    ]
    return drawn, best["median_ms"], f"segments of {best['segment']}"


def _chunks(study: Study, rows: list[dict]):
    rows = best_warps(study, rows[0]["B"])
    best = min(rows, key=lambda r: r["median_ms"])
    drawn = []
    for name, value, look in (
        ("measured", lambda r: r["median_ms"], "book"),
        ("issuing the instructions", lambda r: issue_ms(study, r), "sdpa-cudnn"),
        ("tensor cores", lambda r: tensor_ms(study, r), "sdpa-flash"),
        ("copy, times 6/4", lambda r: 1.5 * r["floor_ms"], "floor"),
    ):
        found = {r["chunk"]: value(r) for r in rows if value(r)}
        if found:
            drawn.append(Curve(name, [*found], [*found.values()], look, look == "book"))
    return drawn, best["median_ms"], f"C = {best['chunk']}"


def _log_axis(title: str) -> Axis:
    """A logarithmic axis with marks at 1, 2 and 5 of each decade."""
    marks = [m * 10.0**e for e in range(-3, 4) for m in (1, 2, 5)]
    return Axis(title, True, {m: style.number(m) for m in marks})
