"""Two records side by side: which work sped up by how much, hence what binds it.

Between two GPUs that differ in one thing, what speeds up with it is bound by it. An H200 is an H100
with a faster memory: work that runs as much faster as the copy does waits for memory, and work that
runs no faster waits for the processor, for latency or for the host.
"""

import math

from . import contenders, style
from .hardware import Provenance
from .results import COMPARISON, Record
from .tables import VOID, Table, footnote, marks

# Copies closer than this are no measure: times of some microseconds differ by a tenth between two
# machines whatever binds them.
TELLS = 1.2
CANNOT = "cannot be told"
TIMES_VOID, COPY_VOID = "void: unsteady", "void: unsteady copy"


def binds(speedup: float, copies: float) -> str:
    """What binds work that ran `speedup` times faster, where copies ran `copies` times faster."""
    if max(copies, 1 / copies) < TELLS:
        return CANNOT
    share = math.log(speedup) / math.log(copies)
    if share > 2 / 3:
        return "memory"
    return "both" if share > 1 / 3 else "not memory"


def rows(first: Record, second: Record, experiment: str = COMPARISON) -> list[dict]:
    """A flat row for each measurement that both records have, verified and timed."""
    found = []
    key = ("contender", "causal", "work", "B", "H", "N", "D", "dtype")
    there = {tuple(getattr(m, k) for k in key): m for m in second.select(experiment=experiment)}
    for a in first.select(experiment=experiment):
        b = there.get(tuple(getattr(a, k) for k in key))
        if b is None or not (a.ok and b.ok):
            continue
        speedup, copies = a.median_ms / b.median_ms, a.floor_ms / b.floor_ms
        void = TIMES_VOID if a.void or b.void else None
        if a.floor_void or b.floor_void:
            void = void or COPY_VOID
        found.append(
            {
                **{k: getattr(a, k) for k in key},
                "first_ms": a.median_ms,
                "second_ms": b.median_ms,
                "speedup": speedup,
                "copies": copies,
                "binds": void or binds(speedup, copies),
                "first_void": a.void,
                "second_void": b.void,
            }
        )
    faster = bool(found) and second_is_faster(found)
    for row in found:  # short copies can differ the other way, by the hosts
        if (row["copies"] > 1) != faster and row["binds"] not in (TIMES_VOID, COPY_VOID):
            row["binds"] = CANNOT
    return found


def second_is_faster(found: list[dict]) -> bool:
    """Whether the second of two records has the faster copies, by the longest row."""
    return max(found, key=lambda r: r["N"])["copies"] > 1


def one_processor(one: Provenance, two: Provenance) -> bool:
    """Whether two GPUs of different names have equally many multiprocessors of one kind and clock.

    The compute capability alone does not say so: an H100 for PCIe has that of the others and fewer
    multiprocessors, and an L4 has that of an RTX 4090.
    """

    def processor(p):
        return p.capability, p.sm_count, p.sm_clock_max_mhz

    return one.gpu != two.gpu and None not in processor(one) and processor(one) == processor(two)


def pair(records: list[Record]) -> tuple[Record, Record] | None:
    """Two records of different GPUs with the same processor, the one with slower copies first."""
    for i, a in enumerate(records):
        for b in records[i + 1 :]:
            if not one_processor(a.provenance, b.provenance):
                continue
            found = rows(a, b)
            if found:
                return (a, b) if second_is_faster(found) else (b, a)
    return None


def table(
    first: Record, second: Record, N: int | None = None, B: int | None = None, work=None
) -> Table:
    """The rows at one length, the longest that both have unless `N` names another; `B` and `work`
    pick a batch and forward or both passes, and are all of them where they are None."""
    found = rows(first, second)
    lengths = sorted({r["N"] for r in found})
    wanted = N or (lengths[-1] if lengths else None)
    found = [r for r in found if r["N"] == wanted and B in (None, r["B"])]
    found = [r for r in found if work in (None, r["work"])]
    shapes = list(dict.fromkeys(f"({r['B']}, {r['H']}, {r['N']}, {r['D']})" for r in found))
    cells = [
        [
            contenders.label(r["contender"]),
            f"({r['B']}, {r['H']}, {r['N']}, {r['D']})",
            f"{style.order(r['causal'])}, {style.work_name(r['work'])}",
            style.number(r["first_ms"]) + marks(r["first_void"], None),
            style.number(r["second_ms"]) + marks(r["second_void"], None),
            VOID if r["binds"] == TIMES_VOID else f"{r['speedup']:.2f}",
            VOID if r["binds"] == COPY_VOID else f"{r['copies']:.2f}",
            r["binds"],
        ]
        for r in found
    ]
    one, two = first.provenance, second.provenance
    times = [f"{p.gpu.removeprefix('NVIDIA ')} [ms]" for p in (one, two)]
    columns = ["contender", "shape", "work", *times, "speed-up", "of the copy", "bound by"]
    caption = f"First: {first.line}{_clock(one)}. Second: {second.line}{_clock(two)}."
    caption += unlike(one, two) + zeros(one, two) + footnote([row[3:7] for row in cells])
    if len(shapes) == 1:  # it stands above the table then, and not in each row
        del columns[1]
        cells = [row[:1] + row[2:] for row in cells]
        caption = f"{shapes[0]}. {caption}"
    return Table(columns, cells, caption, words=("shape", "work", "bound by"))


def unlike(one: Provenance, two: Provenance) -> str:
    """After a space a sentence on what else than the GPU two measurements differ in, or ""."""
    known = ("commit", "command", "torch", "triton", "driver")
    other = [k for k in known if getattr(one, k) != getattr(two, k)]
    return f" The two differ in more than the GPU: {', '.join(other)}." if other else ""


def zeros(one: Provenance, two: Provenance) -> str:
    """After a space a sentence on what the clocks of two runs show for no work, or "".

    By about as much two times of some microseconds differ that are equal otherwise.
    """
    shown = [p.null_kernel_ms and style.number(1e3 * p.null_kernel_ms) for p in (one, two)]
    if None in shown:
        return ""
    return " For a kernel that does nothing the clocks show {} and {} µs.".format(*shown)


def report(first: Record, second: Record):
    """Tables at the longest and the shortest length, a batch after the other; the first is open."""
    from .reports import Report

    found = rows(first, second)
    places = sorted({(r["N"], r["B"]) for r in found}, reverse=True)
    ends = {places[0][0], places[-1][0]}
    return Report(table(first, second, N, B) for N, B in places if N in ends).folded(1)


def changes(base: Record, head: Record, percent: float) -> list[dict]:
    """A row for each case of both records: how much slower `head` is, and what to make of that.

    "slower" or "faster" is a change of the median by more than `percent` in which the middle
    samples (20th to 80th percentile) of the two do not overlap.
    """
    found = []
    key = ("contender", "causal", "work", "B", "H", "N", "D", "dtype")
    there = {tuple(getattr(m, k) for k in key): m for m in head.select(experiment=COMPARISON)}
    for a in base.select(experiment=COMPARISON):
        b = there.get(tuple(getattr(a, k) for k in key))
        row = {k: getattr(a, k) for k in key}
        if a.ok and (b is None or not b.ok):
            reason = "not measured" if b is None else b.reason
            found.append(row | {"change": None, "verdict": f"no longer right: {reason}"})
        elif a.ok:
            change = 100 * (b.median_ms / a.median_ms - 1)
            verdict = ""
            if change > percent and b.p20_ms > a.p80_ms:
                verdict = "slower"
            elif change < -percent and b.p80_ms < a.p20_ms:
                verdict = "faster"
            times = {"base_ms": a.median_ms, "head_ms": b.median_ms}
            found.append(row | times | {"change": change, "verdict": verdict})
    return found


def regressions(base: Record, head: Record, percent: float) -> tuple[Table, int]:
    """(every case side by side, how many are slower or no longer right)."""
    found = changes(base, head, percent)
    cells = [
        [
            f"({r['B']}, {r['H']}, {r['N']}, {r['D']})",
            contenders.label(r["contender"]),
            f"{style.order(r['causal'])}, {style.work_name(r['work'])}",
            style.number(r.get("base_ms")),
            style.number(r.get("head_ms")),
            "" if r["change"] is None else f"{r['change']:+.1f} %",
            r["verdict"],
        ]
        for r in found
    ]
    bad = sum(r["verdict"] not in ("", "faster") for r in found)
    said = f"{bad} of {len(found)} cases slower by more than {percent:g} %, or no longer right."
    caption = f"{said} Base: {base.line}. Head: {head.line}."
    caption += zeros(base.provenance, head.provenance)
    columns = ["shape", "contender", "work", "base [ms]", "head [ms]", "change", "verdict"]
    return Table(columns, cells, caption, words=("shape", "contender", "work", "verdict")), bad


def _clock(provenance) -> str:
    mhz = provenance.sm_clock_mhz
    return f", processor at {mhz} MHz" if mhz else ""
