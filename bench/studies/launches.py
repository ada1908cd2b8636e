"""Which launch it is: on some GPUs one launch of four takes longer, if its arguments are many.

Each sample is taken after a number of launches that is counted, so its time can be laid beside that
number modulo four: its phase. Which phase is the slow one depends on what the process has launched
before; rows call that one 0.
"""

import statistics
from collections.abc import Callable

import torch

from kernels.steps.memory import arguments

from .. import contenders, hardware, profiling, timing, turns
from ..roofline import FORWARD, Shape
from ..runner import Inputs, Watch, admit, free, one_line

ABOUT = "the time of a call by the number of launches before it, and by its arguments"
KIND = "part"
COLUMNS = {
    "arguments": "status reason arguments | phase median_ms samples",
    "contenders": (
        "status reason contender causal work B H N D dtype | launches phase median_ms samples"
    ),
}
PHASES = timing.PHASES
COUNTS, QUICK_COUNTS = (1, 4, 8, 12, 16, 20, 24, 28, 32, 40, 64, 128, 256), (1, 16, 32, 64)
SAMPLES, QUICK_SAMPLES = 400, 120
SOME = ("book", "eager", "sdpa-flash", "sdpa-cudnn")
SHAPE = {"B": 1, "H": 8, "N": 512}
OF_A_SAMPLE = 2  # launches of the clock: the flush and the hold


def measure(
    quick: bool, say: Callable[[str], None], clock=None, device: str = "cuda", **changes
) -> list[dict]:
    """Four rows for each number of arguments, and for each contender and order; `median_ms` is of
    the samples of one phase. `changes` are fields of the shape."""
    clock = clock or timing.DeviceClock()
    count = QUICK_SAMPLES if quick else SAMPLES
    out = torch.zeros(1, dtype=torch.int64, device=device)
    rows = []
    for n in QUICK_COUNTS if quick else COUNTS:
        call = lambda n=n: arguments.total(n, out)  # noqa: E731
        rows += _rows({"part": "arguments", "arguments": n}, call, clock, count, 1)
    say(f"{len(rows)} rows of arguments")
    dtype = str(hardware.default_dtype()).removeprefix("torch.")
    for causal in (False, True):
        shape = Shape(**(SHAPE | {"dtype": dtype, "causal": causal} | changes))
        inputs = Inputs(shape, False, device)
        for name in SOME:
            rows += _contender(contenders.get(name), inputs, clock, count)
        free(device)
    say(f"{len(rows)} rows")
    return rows


def _contender(one, inputs: Inputs, clock, count: int) -> list[dict]:
    """The rows of a contender, or one that says why it has no time."""
    s = inputs.shape
    facts = {"part": "contenders", "contender": one.name, "work": FORWARD, "causal": s.causal}
    facts |= {"B": s.B, "H": s.H, "N": s.N, "D": s.D, "dtype": s.dtype}
    fact, call = admit(one, inputs, FORWARD, Watch("launches", s))
    if call is None:
        return [facts | {"status": fact["status"], "reason": fact["reason"]}]

    def inside():
        with one.context():
            return call()

    return _rows(facts, inside, clock, count, None)


def _rows(facts: dict, call: Callable, clock, count: int, launches: int | None) -> list[dict]:
    """A row for each phase; the launches of a call are counted where they are not known."""
    try:
        taken = samples(call, clock, count)
        launches = launches or launches_of(call)
        phases = by_phase(taken, launches)
    except Exception as problem:
        return [facts | {"status": "failed", "reason": one_line(problem)}]
    good = facts | {"status": "ok", "reason": None, "launches": launches}
    return [
        good | {"phase": phase, "median_ms": statistics.median(times), "samples": len(times)}
        for phase, times in enumerate(phases)
    ]


def slow_and_others(rows: list[dict]) -> tuple[float, float]:
    """Of the rows of one call the time of the slow phase, and the median of the others', in ms."""
    slow, *others = (r["median_ms"] for r in sorted(rows, key=lambda r: r["phase"]))
    return slow, statistics.median(others)


@turns.alone()
def samples(call: Callable, clock, count: int) -> list[tuple[int, float | None]]:
    """(empty launches before a sample, its time in ms; None where the host outlasted the hold)."""
    expected_ms, taken = 0.0, []
    for _ in range(3):
        expected_ms = clock.sample(call, expected_ms)[1]
    for _ in range(count):
        before = clock.before.randrange(PHASES)
        device_ms, host_ms = clock.sample(call, expected_ms, before=before)
        late = timing.outlasted(clock, expected_ms, host_ms)
        taken.append((before, None if late else device_ms))
    return taken


def by_phase(taken: list[tuple[int, float | None]], launches: int) -> list[list[float]]:
    """The times by the launches before them modulo PHASES, of a call of so many launches.

    The slowest phase comes first. ValueError where a phase has no time.
    """
    found = [[] for _ in range(PHASES)]
    launched = 0
    for before, ms in taken:
        launched += before + OF_A_SAMPLE
        if ms is not None:
            found[launched % PHASES].append(ms)
        launched += launches
    if not all(found):
        raise ValueError("a phase without a sample: the host is too slow for this call")
    slowest = max(range(PHASES), key=lambda i: statistics.median(found[i]))
    return found[slowest:] + found[:slowest]


def launches_of(call: Callable) -> int:
    """How many kernels a call launches."""
    found = profiling.kernel_times(call, 1)
    return round(sum(r["launches"] for r in found if not r["kernel"].startswith("Mem")))
