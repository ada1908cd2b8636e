"""Where the time of the operator goes: kernels, rates against measured ceilings, instructions."""

from dataclasses import asdict

from .. import fresh, profiling
from ..errors import BenchError

ABOUT = "kernel by kernel: times, rates against measured ceilings, registers, instructions"


def measure(quick: bool, say) -> list[dict]:
    """Rows of kind "ceiling", "case", "kernel", "compiled" and "counters"."""
    cases = profiling.CASES[:2] if quick else profiling.CASES
    say(f"{len(cases)} shapes under the profiler, in a process of their own")
    options = {"cases": [(asdict(shape), work) for shape, work in cases]}
    found = fresh.call("bench.profiling", "survey", options, timeout_s=120)
    if "failed" in found:
        raise BenchError(f"The profile could not be taken: {found['failed']}.")
    rows = found["rows"]
    for shape, work in cases[: 1 if quick else 2]:
        say(f"hardware counters of {shape}")
        rows += profiling.counters(shape, work)
    return rows
