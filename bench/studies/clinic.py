"""Six measurements that are wrong, each beside one that is right, and a check of the bench itself.

A row has `case`, `wrong_ms`, `right_ms` and `factor` = right / wrong: how much too fast the wrong
one is (below 1: too slow). The wrong ones are as they are found in the wild; the pages show them by
the marks around them.

The row `known_bytes` has a kernel of known bytes, `right_ms`, beside the copy that the bench holds
times against, `floor_ms`; its `factor` is floor / kernel.
"""

import math
import time

import torch

from kernels import linear_attention
from kernels.steps.clinic import scale, tuned
from kernels.steps.memory.copy import copy

from .. import floor, gate, hardware
from ..runner import one_line
from ..timing import FULL, QUICK, DeviceClock, Lane, race

ABOUT = "the benchmark clinic: six wrong measurements, the right ones, a kernel of known bytes"
COLUMNS = "case status reason"

SHAPE = (8, 8, 65536, 64)
SMALL_SHAPE = (1, 8, 16384, 64)  # in quick form, where the other does not fit
LARGE = 2**27  # elements of the plain kernels
SIDE = 8192  # of the matrices
DEVICE = "cuda"


def measure(quick: bool, say) -> list[dict]:
    """A row for each case and one for `known_bytes`; one that fails says why."""
    rows = []
    for case in (*CASES, known_bytes):
        row = {"case": case.__name__}
        try:
            row |= {"status": "ok", "reason": None} | case(quick)
            if "factor" not in row:
                row["factor"] = row["right_ms"] / row["wrong_ms"]
        except Exception as problem:
            row |= {"status": "failed", "reason": one_line(problem)}
        say(", ".join(f"{k} {v}" for k, v in row.items() if v is not None))
        rows.append(row)
        torch.cuda.empty_cache()
    return rows


def right_ms(*calls, quick=False) -> list[float]:
    """The median device time of each call, as the bench takes it."""
    lanes = [Lane(call) for call in calls]
    race(lanes, DeviceClock(), QUICK if quick else FULL)
    for lane in lanes:
        if lane.failure is not None:
            raise lane.failure
    return [lane.percentile(50) for lane in lanes]


def _random(*shape, dtype=None):
    generator = torch.Generator(DEVICE).manual_seed(0)
    x = torch.randn(shape, generator=generator, device=DEVICE)
    return x.to(dtype or hardware.default_dtype())


# [asynchronous:begin]
def time_asynchronous(call):
    call()  # warm up
    begin = time.perf_counter()
    for _ in range(100):
        call()
    return (time.perf_counter() - begin) / 100 * 1e3
    # [asynchronous:end]


def shape_for(quick) -> tuple:
    """The shape of q, k and v: launching is far faster than running only where they are large."""
    if not quick:
        return SHAPE
    free, _ = torch.cuda.mem_get_info()
    return SHAPE if free > 8 * 2 * math.prod(SHAPE) else SMALL_SHAPE  # bytes: what it needs at most


def asynchronous(quick):
    shape = shape_for(quick)
    q, k, v = (_random(*shape) for _ in "qkv")

    def call():
        return linear_attention(q, k, v)

    (right,) = right_ms(call, quick=quick)
    torch.cuda.synchronize()
    # few enough for the queue of launches, so that the host need not wait
    wrong = time_asynchronous(call)
    torch.cuda.synchronize()
    return {"wrong_ms": wrong, "right_ms": right, **dict(zip("BHND", shape, strict=True))}


# [events:begin]
def time_with_events(call):
    start = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    call()  # warm up
    start.record()
    for _ in range(100):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 100
    # [events:end]


def warm_cache(quick):
    l2_bytes = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 0) or 64 * 2**20
    source = torch.zeros(l2_bytes // 3, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)

    def call():
        return target.copy_(source)

    (right,) = right_ms(call, quick=quick)
    return {
        "wrong_ms": time_with_events(call),
        "right_ms": right,
        "bytes": 2 * source.numel(),
        "l2_bytes": l2_bytes,
    }


# [tuning:begin]
def time_with_tuning(call):
    start = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(100):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 100
    # [tuning:end]


def tuning(quick):
    n = LARGE // (8 if quick else 1)
    x, y = (_random(n) for _ in "xy")

    def call():
        return tuned.add(x, y)

    wrong = time_with_tuning(call)
    (right,) = right_ms(call, quick=quick)
    return {"wrong_ms": wrong, "right_ms": right}


# [drift:begin]
def time_one_after_the_other(first, second):
    return time_a_few(first), time_a_few(second)


def time_a_few(call):
    start = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    call()  # warm up
    start.record()
    for _ in range(500):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 500
    # [drift:end]


def drift(quick):
    """The same product under two names; the GPU has rested before the first one."""
    # a small product, or a short rest, does not show it
    small = quick and torch.cuda.get_device_capability() < (9, 0)
    side = SIDE // (4 if small else 1)
    a, b = _random(side, side), _random(side, side)

    def call():
        return torch.matmul(a, b)

    def again():
        return torch.matmul(a, b)

    call()
    torch.cuda.synchronize()
    time.sleep(1 if small else 4)
    first, second = time_one_after_the_other(call, again)
    in_turns = right_ms(call, again, quick=quick)
    return {
        "wrong_ms": first,
        "second_ms": second,
        "right_ms": in_turns[0],
        "right_second_ms": in_turns[1],
        "factor": second / first,
    }


# [bytes:begin]
def bandwidth_of_an_add(x, y, ms):
    """TB/s: x and y are read, their sum is written."""
    moved = (x.numel() + y.numel() + x.numel()) * x.element_size()
    return moved / ms / 1e9
    # [bytes:end]


def wrong_bytes(quick):
    rows = LARGE // 1024 // (8 if quick else 1)
    x = _random(rows, 1024)
    y = _random(1, 1024).expand(rows, 1024)
    (ms,) = right_ms(lambda: x + y, quick=quick)
    right = 2 * x.numel() * x.element_size() / ms / 1e9
    return {
        "wrong_ms": ms,
        "right_ms": ms,
        "wrong_TBps": bandwidth_of_an_add(x, y, ms),
        "right_TBps": right,
        "factor": bandwidth_of_an_add(x, y, ms) / right,
    }


# [verify:begin]
def looks_right(got, want, tolerance=1e-2):
    difference = (got - want).abs()
    if (difference > tolerance * want.abs().max()).any():
        return False
    return True
    # [verify:end]


def unverified(quick):
    x = _random(LARGE // (8 if quick else 1))
    want = 3 * x
    gate.poison([x])
    got = scale.scaled_faster(x, 3.0)
    missing = int((~torch.isfinite(got)).sum())
    passed, near = looks_right(got, want), bool(((got - want).abs() <= 1e-2).all())
    if not torch.equal(scale.scaled(x, 3.0), want):
        raise AssertionError("the right kernel is wrong")
    wrong, right = right_ms(
        lambda: scale.scaled_faster(x, 3.0), lambda: scale.scaled(x, 3.0), quick=quick
    )
    return {
        "wrong_ms": wrong,
        "right_ms": right,
        "passed_the_wrong_check": passed,
        "passed_the_right_check": near,
        "not_finite": missing,
        "elements": x.numel(),
    }


def known_bytes(quick):
    """A copy written by hand, whose bytes nobody can doubt, in one race with that of the bench."""
    x = _random(LARGE)
    y = torch.full_like(x, math.nan)
    copy(x, out=y)
    if not torch.equal(x, y):
        raise AssertionError("the copy is wrong")
    moved = 2 * x.nbytes
    ours, least = right_ms(lambda: copy(x, out=y), floor.copy_call(moved, DEVICE), quick=quick)
    return {"right_ms": ours, "floor_ms": least, "bytes": moved, "factor": least / ours}


CASES = (asynchronous, warm_cache, tuning, drift, wrong_bytes, unverified)
