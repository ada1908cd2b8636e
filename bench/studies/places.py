"""Where the tensors of a short call lie, and what that changes of its time.

The same numbers lie in several places of the memory at once, as they do in the race of the book.
Each place has two lanes of its own in one race: how much the places differ stands beside how much
a place differs from itself.
"""

from collections.abc import Callable

import torch

from .. import contenders, hardware
from ..roofline import FORWARD, Shape
from ..runner import Inputs, Watch, admit, free
from ..timing import DeviceClock, Lane, Sampling, race

ABOUT = "the same short call on the same numbers in several places of the memory"
COLUMNS = (
    "contender causal work B H N D dtype status reason"
    " | places least_ms median_ms most_ms again samples"
)
SOME = ("book", "eager", "sdpa-flash", "sdpa-cudnn")
LENGTHS, QUICK_LENGTHS = (512, 1024, 2048), (512,)
FULL = Sampling(least=30, most=30, warm_up=2)
QUICK = Sampling(least=10, most=10, warm_up=1)


def measure(
    quick: bool, say: Callable[[str], None], clock=None, device: str = "cuda", **changes
) -> list[dict]:
    """A row for each contender, length and order; times are medians of a place, in ms.

    `least_ms`, `median_ms` and `most_ms` are over the places, and `again` is the most that one lane
    of a place took over the other. `changes` are fields of the shape.
    """
    clock = clock or DeviceClock()
    dtype = str(hardware.default_dtype()).removeprefix("torch.")
    rows = []
    for N in QUICK_LENGTHS if quick else LENGTHS:
        for causal in (False, True):
            shape = Shape(**({"B": 1, "H": 8, "N": N, "dtype": dtype, "causal": causal} | changes))
            rows += _rows(shape, clock, device, QUICK if quick else FULL)
        say(f"{len(rows)} rows, up to {N} tokens")
    return rows


def _rows(shape: Shape, clock, device: str, sampling: Sampling) -> list[dict]:
    """A row for each contender that takes the shape."""
    inputs = Inputs(shape, False, device)
    facts, lanes = {}, {}
    for name in SOME:
        one = contenders.get(name)
        facts[name], calls = admit(one, inputs, FORWARD, Watch("places", shape))
        lanes[name] = [(Lane(call, one.context), Lane(call, one.context)) for call in calls]
    race([x for pairs in lanes.values() for pair in pairs for x in pair], clock, sampling)
    free(device)
    s = shape
    where = {"causal": s.causal, "work": FORWARD, "B": s.B, "H": s.H, "N": s.N, "D": s.D}
    return [
        {"contender": name, **where, "dtype": s.dtype, **_row(facts[name], lanes[name])}
        for name in SOME
    ]


def _row(fact: dict, pairs: list[tuple[Lane, Lane]]) -> dict:
    """The columns of times, or why there are none."""
    failed = [lane.failure for pair in pairs for lane in pair if lane.failure is not None]
    if failed or not pairs:
        reason = repr(failed[0]) if failed else fact["reason"]
        return {"status": "failed" if failed else fact["status"], "reason": reason}
    medians = torch.tensor([[lane.percentile(50) for lane in pair] for pair in pairs])
    of_place = medians.mean(1)
    return {
        "status": "ok",
        "reason": None,
        "places": len(pairs),
        "least_ms": of_place.min().item(),
        "median_ms": of_place.quantile(0.5).item(),
        "most_ms": of_place.max().item(),
        "again": (medians.amax(1) / medians.amin(1)).max().item(),
        "samples": sum(len(lane.device_ms) for pair in pairs for lane in pair),
    }
