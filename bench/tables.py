"""Tables of measurements: HTML for a page, Markdown for the README, text for a terminal."""

import html
import re
from dataclasses import dataclass, field

from . import contenders, style
from .results import STEADY, Measurement, Record
from .roofline import FORWARD

UNSTEADY, HOST, VOID = "†", "‡", "void"


@dataclass(frozen=True)
class Table:
    """Rows of text under column names; `notes` maps (row, column) to what a hover says.

    `words` names the columns that hold words, not numbers: set to the left, and broken into lines.
    """

    columns: list[str]
    rows: list[list[str]]
    caption: str = ""
    notes: dict[tuple[int, int], str] = field(default_factory=dict)
    words: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        head = "".join(
            f'<th scope="col" style="white-space: normal'
            f'{"; text-align: left" if c in self.words else ""}">{_shown(c)}</th>'
            for c in self.columns
        )
        body = "".join(
            f"<tr>{''.join(self._cell(i, j, text) for j, text in enumerate(row))}</tr>"
            for i, row in enumerate(self.rows)
        )
        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        return (
            '<div class="book-table-wrap" tabindex="0" style="overflow-x: auto">'
            f'<table class="book-table">{caption}<thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )

    def _cell(self, i: int, j: int, text: str) -> str:
        note = self.notes.get((i, j))
        title = f' title="{html.escape(note)}"' if note else ""
        style = (
            ' style="white-space: normal; text-align: left"'
            if self.columns[j] in self.words
            else ""
        )
        if j == 0:
            return f'<th scope="row"{title}{style}>{_shown(text)}</th>'
        return f"<td{title}{style}>{_shown(text)}</td>"

    def markdown(self) -> str:
        """A pipe table, the caption as a line below it."""
        lines = [
            "| " + " | ".join(self.columns) + " |",
            "|---" + "".join("|---" if c in self.words else "|--:" for c in self.columns[1:]) + "|",
            *("| " + " | ".join(row) + " |" for row in self.rows),
        ]
        return "\n".join(lines + (["", f"{self.caption}"] if self.caption else []))

    def __str__(self) -> str:
        grid = [self.columns, *self.rows]
        widths = [max(len(row[j]) for row in grid) for j in range(len(self.columns))]
        left = [j == 0 or c in self.words for j, c in enumerate(self.columns)]
        lines = [
            "  ".join(
                c.ljust(w) if here else c.rjust(w)
                for c, w, here in zip(row, widths, left, strict=True)
            )
            for row in grid
        ]
        lines.insert(1, "  ".join("-" * w for w in widths))
        return "\n".join([*lines, *([self.caption] if self.caption else [])])

    __repr__ = __str__


def _shown(text: str) -> str:
    """HTML of a cell; a name that is put together may be broken behind `_`, `.` and `::`."""
    return re.sub(r"(?<=[_.:])(?=[A-Za-z])", "<wbr>", html.escape(text))


def fastest_softmax(record: Record, **shape) -> Measurement | None:
    """The fastest verified softmax attention on a shape, whichever backend that is."""
    found = [m for m in record.select(**shape) if m.ok and m.contender.startswith("sdpa")]
    return min(found, key=lambda m: m.median_ms, default=None)


def rivals(record: Record, **shape) -> tuple[Measurement, Measurement] | None:
    """This book's kernel and the fastest softmax attention on a shape, where both were verified."""
    ours = record.one(contender="book", **shape)
    softmax = fastest_softmax(record, **shape)
    return None if ours is None or not ours.ok or softmax is None else (ours, softmax)


def speedup(record: Record, **shape) -> float | None:
    """How many times faster this book's kernel is than the fastest softmax attention.

    None where one of the two was not verified, or is unsteady: the comparison is void then.
    """
    pair = rivals(record, **shape)
    if pair is None or pair[0].void or pair[1].void:
        return None
    return pair[1].median_ms / pair[0].median_ms


def ratio(record: Record, **shape) -> str:
    """`speedup` as it stands in a table: VOID where one of the two is unsteady."""
    pair = rivals(record, **shape)
    if pair is not None and (pair[0].void or pair[1].void):
        return VOID
    return style.number(speedup(record, **shape))


def share(m: Measurement | None) -> float | None:
    """Copy time over time; None where there is none, or where one of the two is unsteady."""
    return m.share_of_floor if m is not None and m.ok and not m.floor_void else None


def share_cell(m: Measurement | None) -> str:
    """`share` as it stands in a table: VOID where one of the two is unsteady."""
    if m is not None and m.ok and m.floor_void:
        return VOID
    return style.number(share(m), 2)


def times(record: Record, *, B: int, causal: bool, work: str = FORWARD) -> Table:
    """Median times by sequence length, a column for each contender, then floor and ratios."""
    shape = {"B": B, "causal": causal, "work": work}
    names = record.contenders()
    columns = ["N", *map(contenders.label, names)]
    columns += ["copy of the same bytes", "book: share of copy speed", "fastest SDPA / book"]
    rows, notes = [], {}
    for i, n in enumerate(sorted({m.N for m in record.select(**shape)})):
        cells = [style.length(n)]
        floor = None
        for name in names:
            m = record.one(contender=name, N=n, **shape)
            cells.append(cell(m))
            if m is not None:
                notes[i, len(cells) - 1] = note(m)
                floor = floor or m.floor_ms
        ours = record.one(contender="book", N=n, **shape)
        cells += [style.number(floor), share_cell(ours), ratio(record, N=n, **shape)]
        rows.append(cells)
    first = record.one(**shape)
    size = f"({B}, {first.H}, N, {first.D}), {first.dtype}, " if first else f"B = {B}, "
    caption = (
        f"Median time [ms], {size}{style.order(causal)}, {style.work_name(work)}; {record.line}."
    )
    return Table(columns, rows, caption + footnote(rows), notes)


def longest(record: Record, **shape) -> int:
    """The largest N at which the book and a softmax attention were both verified.

    Where there is none, as on a GPU that has no SDPA backend here, the largest N of all.
    """
    lengths = record.values("N")
    return max((n for n in lengths if rivals(record, N=n, **shape)), default=lengths[-1])


def host(record: Record, *, B: int, causal: bool, work: str = FORWARD) -> Table:
    """Device time and host time by length; a star where the host needs longer than the device."""
    names = record.contenders()
    rows = []
    for n in record.values("N"):
        cells = []
        for name in names:
            m = record.one(contender=name, N=n, B=B, causal=causal, work=work)
            if m is None or not m.ok or m.host_ms is None:
                cells.append(cell(m))
                continue
            star = " *" if m.host_bound else ""
            cells.append(f"{cell(m)} / {style.number(m.host_ms)}{star}")
        rows.append([style.length(n), *cells])
    caption = (
        "Device / host time [ms], * where a program that waits for nothing else waits for the "
        f"host, B = {B}, {style.order(causal)}, {style.work_name(work)}; {record.line}."
    )
    return Table(["N", *map(contenders.label, names)], rows, caption + footnote(rows))


def graphs(record: Record, *, B: int, causal: bool = False) -> Table:
    """What a short call costs: the slower of host and device, and replayed as a CUDA graph."""
    names = record.contenders()
    shape = {"B": B, "causal": causal, "work": FORWARD}
    rows = []
    for n in sorted({m.N for m in record.select(experiment="graph", **shape)}):
        cells = [style.length(n)]
        for name in names:
            m = record.one(contender=name, N=n, **shape)
            replayed = record.one(experiment="graph", contender=name, N=n, **shape)
            called = max(m.median_ms, m.host_ms or 0) if m is not None and m.ok else None
            cells.append(f"{style.number(called)} / {cell(replayed)}")
        rows.append(cells)
    caption = (
        f"Called / replayed as a CUDA graph [ms], B = {B}, {style.order(causal)}, forward; "
        f"{record.line}."
    )
    return Table(["N", *map(contenders.label, names)], rows, caption + footnote(rows))


def first_calls(record: Record) -> Table:
    """The longest first call of each contender, which may compile, and a later call of that shape.

    Where a cache has what was compiled, as for a shape like an earlier one, a first call is short.
    """
    rows = []
    for name in record.contenders():
        found = [m for m in record.select(contender=name) if m.ok and m.first_call_ms is not None]
        if found:
            m = max(found, key=lambda m: m.first_call_ms)
            shape = f"({m.B}, {m.H}, {m.N}, {m.D}) {style.order(m.causal)}"
            later = max(m.median_ms, m.host_ms or 0)
            times = [style.number(m.first_call_ms), style.number(later)]
            rows.append([contenders.label(name), f"{shape}, {style.work_name(m.work)}", *times])
    columns = ["contender", "where", "first call [ms]", "later calls [ms]"]
    caption = f"The longest first call of a run, and the calls after it; {record.line}."
    return Table(columns, rows, caption, words=("where",))


def zeros(records: list[Record]) -> Table:
    """What the clock of each run shows for a kernel that does nothing, beside its shortest call."""
    rows = []
    for record in records:
        zero_ms = record.provenance.null_kernel_ms
        timed = [m for m in record.select() if m.ok and not m.void]
        if zero_ms and timed:
            m = min(timed, key=lambda m: m.median_ms)
            what = f"{label(m)}, ({m.B}, {m.H}, {m.N}, {m.D}) {style.order(m.causal)}"
            times = [style.number(1e3 * ms) for ms in (zero_ms, m.median_ms)]
            share = f"{100 * zero_ms / m.median_ms:.0f} %"
            rows.append([record.line, times[0], what, times[1], share])
    columns = ["run", "does nothing [µs]", "shortest call", "its time [µs]", "zero's share"]
    caption = "A kernel that does nothing, and the shortest call that the run has timed."
    return Table(columns, rows, caption, words=("run", "shortest call"))


def label(m: Measurement | None) -> str:
    """The contender of a measurement as figures call it."""
    return "–" if m is None else contenders.label(m.contender)


def cell(m: Measurement | None) -> str:
    """What stands in a table for a measurement: its time, or why there is none."""
    if m is None:
        return "–"
    if not m.ok:
        return m.status.replace("_", " ")
    return style.number(m.median_ms) + marks(m.void, m.host_included)


def marks(void: bool, host: bool | None) -> str:
    """What follows a time that is unsteady, or that counts the host."""
    return (UNSTEADY if void else "") + (HOST if host else "")


def footnote(rows: list[list[str]]) -> str:
    """What the marks of times mean, to follow a caption; nothing where there is none."""
    said = {
        UNSTEADY: f"Unsteady: its 80th percentile is more than {STEADY} times its 20th.",
        HOST: "With the time of the host, which is too long to be hidden.",
        VOID: "stands for what would be made of an unsteady time.",
    }
    there = [mark for mark in said if any(mark in text for row in rows for text in row)]
    return "".join(f" {mark} {said[mark]}" for mark in there)


def note(m: Measurement) -> str:
    """What a hover says of a measurement."""
    if not m.ok:
        return m.reason
    text = (
        f"20th to 80th percentile {style.number(m.p20_ms)} to {style.number(m.p80_ms)} ms, "
        f"{m.samples} samples, relative error {m.error:.1g}"
    )
    if m.host_ms is not None:
        text += f"; the host needs {style.number(m.host_ms)} ms to issue it"
    if m.host_included:
        text += ", and is counted"
    if m.raced_again:
        text += "; of a second race, since it was unsteady in the first"
    if m.unsteady:
        text += "; unsteady, also when raced again"
    if m.floor_void and not m.void:
        text += "; the copy beside it is unsteady"
    return text


def problems(record: Record) -> Table:
    """What was not timed and why, one row for each contender and reason."""
    rows: dict[tuple, list[str]] = {}
    for m in record.measurements:
        if not m.ok:
            where = f"({m.B}, {m.H}, {style.length(m.N)}, {m.D}) {style.order(m.causal)}"
            key = (contenders.label(m.contender), m.status.replace("_", " "), m.reason)
            rows.setdefault(key, []).append(f"{where} {style.work_name(m.work)}")
    lines = [
        [who, status, places[0] + (f" and {len(places) - 1} more" if places[1:] else ""), why]
        for (who, status, why), places in rows.items()
    ]
    columns = ["contender", "status", "where", "reason"]
    return Table(columns, lines, f"Not timed; {record.line}.", words=tuple(columns))


def entrants(names: list[str] | None = None) -> Table:
    """Who takes part: what each computes, what is timed, and how to install it."""
    rows = []
    for name in names or contenders.names():
        c = contenders.get(name)
        missing = c.available()
        there = "yes" if missing is None else "not installed"
        rows.append([c.label, name, c.note, c.outside or "nothing", there])
    columns = ["contender", "name", "what is timed", "made ready, not timed", "installed here"]
    return Table(columns, rows, words=tuple(columns))
