"""Where the time of the operator goes: kernels, rates against measured ceilings, instructions."""

from dataclasses import asdict

from .. import contenders, fresh, profiling
from ..errors import BenchError

ABOUT = "kernel by kernel: times, rates against measured ceilings, registers, instructions"
KIND = "kind"
COLUMNS = {
    "ceiling": "what | median_ms",
    "case": "work B H N D causal | contender median_ms",
    "kernel": "work B H N D causal | kernel launches ms share",
    "compiled": "kernel constants registers",
    "counters": "work B H N D causal status reason | kernel read_bytes written_bytes",
}

LIMIT_S = 120.0  # what has not been profiled by then is said to be missing


def measure(quick: bool, say, contender: str = "book") -> list[dict]:
    """Rows of kind "ceiling", "case", "kernel", "compiled" and "counters", of one contender.

    Shapes that it has no form for are left out. Raises BenchError where it is unknown, is not
    installed, or cannot be measured.
    """
    one = contenders.get(contender)
    missing = one.available()
    if missing is not None:
        raise BenchError(f"{one.label} cannot be profiled: {missing}; to install: {one.install}.")
    cases = [(s, work) for s, work in profiling.CASES if one.refusal(s) is None]
    if not cases:
        raise BenchError(f"{one.label} cannot be profiled: {one.refusal(profiling.CASES[0][0])}.")
    cases = cases[:2] if quick else cases
    say(f"{len(cases)} shapes of {one.label} under the profiler, in a process of their own")
    items = [(asdict(shape), work) for shape, work in cases]
    more = {"contender": contender}
    rows = fresh.in_turn("bench.profiling", "survey", items, _failed, LIMIT_S, say, **more)
    found = [r for r in rows if r["kind"] == "case"]
    if not any("median_ms" in r for r in found):
        raise BenchError(f"The profile could not be taken: {found[0]['reason']}.")
    first = {r["what"]: r for r in rows[::-1] if r["kind"] == "ceiling"}  # of the first process
    compiled = {(r["kernel"], r["constants"]): r for r in rows if r["kind"] == "compiled"}
    rows = [r for r in rows if r["kind"] not in ("ceiling", "compiled")]
    rows = [*list(first.values())[::-1], *rows, *(compiled[key] for key in sorted(compiled))]
    for shape, work in cases[: 1 if quick else 2]:
        say(f"hardware counters of {shape}")
        rows += profiling.counters(shape, work, contender)
    return rows


def _failed(item, reason: str) -> dict:
    shape, work = item
    return {"kind": "case", "work": work, **shape, "reason": reason}
