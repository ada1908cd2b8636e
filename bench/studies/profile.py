"""Where the time of the operator goes: kernels, rates against measured ceilings, instructions."""

from dataclasses import asdict

from .. import fresh, profiling
from ..errors import BenchError

ABOUT = "kernel by kernel: times, rates against measured ceilings, registers, instructions"

LIMIT_S = 120.0  # what has not been profiled by then is said to be missing


def measure(quick: bool, say) -> list[dict]:
    """Rows of kind "ceiling", "case", "kernel", "compiled" and "counters"."""
    cases = profiling.CASES[:2] if quick else profiling.CASES
    say(f"{len(cases)} shapes under the profiler, in a process of their own")
    items = [(asdict(shape), work) for shape, work in cases]
    rows = fresh.in_turn("bench.profiling", "survey", items, _failed, LIMIT_S, say)
    found = [r for r in rows if r["kind"] == "case"]
    if not any("median_ms" in r for r in found):
        raise BenchError(f"The profile could not be taken: {found[0]['reason']}.")
    first = {r["what"]: r for r in rows[::-1] if r["kind"] == "ceiling"}  # of the first process
    compiled = {(r["kernel"], r["constants"]): r for r in rows if r["kind"] == "compiled"}
    rows = [r for r in rows if r["kind"] not in ("ceiling", "compiled")]
    rows = [*list(first.values())[::-1], *rows, *(compiled[key] for key in sorted(compiled))]
    for shape, work in cases[: 1 if quick else 2]:
        say(f"hardware counters of {shape}")
        rows += profiling.counters(shape, work)
    return rows


def _failed(item, reason: str) -> dict:
    shape, work = item
    return {"kind": "case", "work": work, **shape, "reason": reason}
