"""Figures of causal scans: which program does what when, and which query sees which key.

They use the format of `bench.figures` and the look of `bench.diagrams`.
"""

import heapq
from dataclasses import dataclass

from . import style
from .diagrams import PALETTE
from .figures import LEGEND, TEMPLATE, Figure, Switch
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
                ["scan", "segments", "units of time", "busy", "launches", "k and v are read"],
                [[scan, cut, f"{end:g}", f"{100 * share:.0f} %", str(launches),
                  "once" if times == 1 else "twice"]],
            )  # fmt: skip
    axis = {"zeroline": False, "showline": True, "ticks": "outside", "fixedrange": True}
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
