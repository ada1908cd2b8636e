"""Memory of a call: its peak, a model of it by N, and the longest sequence that fits.

Peaks are those of PyTorch's caching allocator, which every contender here allocates from. They
leave out what a process holds beside it: the CUDA context and loaded kernels, half a gibibyte or
more. A smaller GPU is imitated by a limit on that allocator.
"""

import gc
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch

from . import contenders, fresh, runner, style
from .roofline import FORWARD, Shape
from .timing import DeviceLost, answers

GIB = 2**30
LENGTHS = (1024, 2048, 4096, 16384, 65536)  # where peaks are measured
SIZES_GIB = (16, 24, 40, 80)
STEP = 128  # lengths that are tried are multiples of it, so that no tile is cut
COMPILES = ("compiled",)  # anew for every shape
FEW = (4096, 65536)  # where peaks are measured of those that compile or tune for long
PATIENCE_S = 4.0  # a length at which two calls would take longer is predicted, and not run
FIRST_PATIENCE_S = 12.0  # the same for the smallest of the sizes
SHORT = 4096  # then as many tokens are run as sequences of this length, which takes less time


@dataclass(frozen=True)
class Model:
    """Peak bytes of a call by N: fixed + per_token · N + per_pair · N²; inputs counted."""

    fixed: float
    per_token: float
    per_pair: float

    def bytes(self, n: int) -> float:
        return self.fixed + self.per_token * n + self.per_pair * n * n

    def longest(self, limit: float) -> int:
        """The largest N, a multiple of STEP, whose bytes are within `limit`; 0 where none is."""
        room = limit - self.fixed
        if room <= 0:
            return 0
        if self.per_pair:
            root = self.per_token**2 + 4 * self.per_pair * room
            n = (root**0.5 - self.per_token) / (2 * self.per_pair)
        else:
            n = room / self.per_token
        return int(n) // STEP * STEP


def fit(points: list[tuple[int, float]]) -> Model:
    """A model through the last three (N, peak bytes), or a line through the last two.

    A line where N² adds less than a hundredth, and where the peak grew no faster than N: then the
    three points are bent by something else, such as another algorithm for short sequences.
    Raises ValueError with fewer than two points.
    """
    points = sorted(points)[-3:]
    if len(points) < 2:
        raise ValueError("a model needs peaks at two lengths")
    n, peak = (np.array(column, dtype=float) for column in zip(*points, strict=True))
    faster = peak[-1] * n[-2] > 1.02 * peak[-2] * n[-1]
    if len(points) == 3 and faster:
        per_pair, per_token, fixed = np.polyfit(n, peak, 2)
        if per_pair * n[-1] ** 2 > 0.01 * peak[-1] and per_token >= 0:
            return Model(float(fixed), float(per_token), float(per_pair))
    per_token = (peak[-1] - peak[-2]) / (n[-1] - n[-2])
    return Model(float(peak[-1] - per_token * n[-1]), float(per_token), 0.0)


def largest(fits, guess: int, tolerance: float = 0.02, unit: int = STEP) -> tuple[int, int]:
    """(the largest N that fits, the least that does not), found around `guess`.

    They are multiples of `unit`, and within `tolerance` of each other. `fits(n)` says whether n
    fits.
    """
    step = max(unit, int(guess * tolerance) // unit * unit)
    guess = max(unit, guess // unit * unit)
    low, high = (guess, None) if fits(guess) else (None, guess)
    while low is None or high is None:
        if high is None:
            n = low + step
            low, high = (n, None) if fits(n) else (low, n)
        else:
            if high <= unit:
                return 0, high
            n = max(unit, high - step)
            low, high = (n, high) if fits(n) else (None, n)
        step *= 2
    while high - low > max(unit, tolerance * guess):
        middle = (low + high) // 2 // unit * unit
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low, high


def run_once(contender, shape: Shape, work: str, device: str = "cuda") -> dict:
    """Only to see whether it fits."""
    runner.free(device)
    call = runner.call_of(contender, *inputs(contender, shape, work, device), shape.causal)
    with contender.context():
        call()
        runner.synchronize(device)
    return {}


def call_once(contender, shape: Shape, work: str, device: str = "cuda") -> dict:
    """Peak bytes of a call after another one like it, which compiles and leaves its workspaces."""
    runner.free(device)
    call = runner.call_of(contender, *inputs(contender, shape, work, device), shape.causal)
    with contender.context():
        call()
        runner.synchronize(device)
        runner.free(device)
        base = allocated(device)
        reset(device)
        begin = time.perf_counter()
        result = call()
        runner.synchronize(device)
        seconds = time.perf_counter() - begin
    peak, reserved = peaks(device)
    tensors = result if isinstance(result, tuple) else (result,)
    outputs = sum(x.numel() * x.element_size() for x in tensors)
    return {
        "before_bytes": base,
        "outputs_bytes": outputs,
        "extra_bytes": max(0, peak - base - outputs),
        "peak_allocated_bytes": peak,
        "peak_reserved_bytes": reserved,
        "seconds": seconds,
    }


def inputs(contender, shape: Shape, work: str, device: str):
    """q, k, v and do (None for the forward alone), made at once in the contender's layout."""
    rows = (shape.N, shape.H) if contender.layout == "BNHD" else (shape.H, shape.N)

    def filled(width):
        x = torch.empty(shape.B, *rows, width, device=device, dtype=getattr(torch, shape.dtype))
        return x.uniform_()  # positive, as features are

    do = None if work == FORWARD else filled(shape.Dv)
    return filled(shape.D), filled(shape.D), filled(shape.Dv), do


def allocated(device: str) -> int:
    return torch.cuda.memory_allocated() if device == "cuda" else 0


def reset(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peaks(device: str) -> tuple[int, int]:
    """(peak allocated, peak reserved) bytes since the last `reset`."""
    if device != "cuda":
        return 0, 0
    return torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()


def one_call(contender: str, work: str, device: str = "cuda", **shape) -> dict:
    """`call_once` for a fresh process."""
    c = contenders.get(contender)
    missing = c.available()
    return {"failed": missing} if missing else call_once(c, Shape(**shape), work, device)


def in_a_fresh_process(contender: str, shape: Shape, work: str) -> dict:
    """`call_once` in a process of its own; {"failed": why} where that is not to be had."""
    return fresh.call(__name__, "one_call", {"contender": contender, "work": work, **asdict(shape)})


def surveys(items: list, **options):
    """`survey` of each (contender, causal, work), followed by {"done": …}."""
    for name, causal, work in items:
        gc.freeze()  # the objects of packages, which each collection between calls would go through
        yield from survey(name, [(causal, work)], **options)
        yield {"done": f"{name}, {style.order(causal)}, {style.work_name(work)}"}


def survey(
    contender: str,
    cases: list[tuple[bool, str]],
    lengths=LENGTHS,
    sizes_gib=SIZES_GIB,
    B: int = 8,
    H: int = 8,
    D: int = 64,
    dtype: str = "bfloat16",
    device: str = "cuda",
):
    """Yields rows of a contender for the (causal, work) in `cases`: its peaks and longest N.

    Those that compile or tune for long are called at FEW lengths, and run into the smallest size
    alone, or into none.
    """
    c = contenders.get(contender)
    missing = c.available()
    for causal, work in cases:
        if causal not in c.causal:
            continue
        case = {"contender": contender, "label": c.label, "causal": causal, "work": work}
        case |= {"B": B, "H": H, "D": D, "dtype": dtype}

        def shape(n, B=B, causal=causal):
            return Shape(B, H, n, D, D, dtype, causal)

        if missing is not None:
            reason = f"{missing}; to install: {c.install}"
            yield {"kind": "peak", **case, "status": "not_installed", "reason": reason}
            continue
        points = []
        slow = c.tunes or contender in COMPILES
        for n in [n for n in lengths if n in FEW] if slow else lengths:
            fact = _try(c, shape(n), work, device)
            yield {"kind": "peak", **case, "N": n, **fact}
            if fact["status"] == "ok":
                points.append((n, fact["peak_allocated_bytes"], fact["seconds"]))
        for size in sizes_gib:
            patience_s = FIRST_PATIENCE_S if size == min(sizes_gib) else PATIENCE_S
            skip = None
            if contender in COMPILES:
                skip = "it compiles anew for every length"
            elif slow and size > min(sizes_gib):
                skip = "it tunes itself, and is run into the smallest size alone"
            row = {"kind": "fits", **case, "limit_gib": size}
            try:
                yield row | _fits(c, shape, work, size, points, device, patience_s, skip)
            except DeviceLost as problem:
                yield row | {"status": "failed", "reason": str(problem)}
                raise


def _try(contender, shape: Shape, work: str, device: str, peaks: bool = True) -> dict:
    """What a call needs, or why it does not run; without `peaks` only that it does."""
    refusal = contender.refusal(shape)
    if refusal is not None:
        return {"status": "failed", "reason": refusal}
    look = call_once if peaks else run_once
    try:
        return {"status": "ok", "reason": None, **look(contender, shape, work, device)}
    except Exception as problem:
        fact = {"status": "failed", "reason": runner.one_line(problem)}
        fact["out_of_memory"] = isinstance(problem, torch.OutOfMemoryError)
        del problem
        runner.free(device)
        if device == "cuda" and not answers():  # nothing after it would be a measurement
            raise DeviceLost(fact["reason"]) from None
        return fact


def _fits(
    contender, shape, work, size_gib: int, points, device: str, patience_s: float, skip: str | None
) -> dict:
    """The longest N within a size: as the model predicts it, and as it was run into.

    Where two calls would take more than `patience_s` seconds, as many tokens are run as shorter
    sequences; where there is a reason to `skip` it, nothing is run.
    """
    if len(points) < 2:
        return {"status": "failed", "reason": "no model: it ran at fewer than two lengths"}
    model = fit([(n, peak) for n, peak, _ in points])
    total = capacity(device)
    held = min(size_gib * GIB, total)
    guess = model.longest(held)
    row = {
        "held_gib": held / GIB,
        "bytes_per_token": model.per_token,
        "bytes_fixed": model.fixed,
        "bytes_per_pair": model.per_pair,
        "predicted_n": guess,
    }
    n, _, seconds = points[-1]
    linear = contender.function.family == "linear"
    call_s = seconds * (guess / n if linear else (guess / n) ** 2)
    if guess < STEP:
        return row | {"status": "failed", "reason": "it does not fit at all"}
    if skip:
        return row | {"status": "predicted", "reason": f"predicted, and not run: {skip}"}
    if 2 * call_s > patience_s:
        reason = f"predicted, and not run: a call would take {call_s:.0f} s"
        row |= {"status": "predicted", "reason": reason}
        short_s = seconds * guess / n * (1 if linear else SHORT / n)
        if model.per_pair or guess < 2 * SHORT or 2 * short_s > PATIENCE_S:
            return row
        return row | _in_batch(contender, shape, work, device, guess, held / total, reason)
    try:
        low, high, tries = _run_into(contender, shape, work, device, guess, held / total)
    except RuntimeError as problem:
        return row | {"status": "failed", "reason": str(problem)[:240]}
    missed = None if low == 0 else guess / low - 1
    return row | {
        "status": "ok",
        "reason": None,
        "fits_n": low,
        "fails_n": high,
        "prediction_error": missed,
        "tries": tries,
    }


def _in_batch(contender, shape, work, device: str, guess: int, share: float, reason: str) -> dict:
    """How many sequences of SHORT tokens fit, where as many tokens in long ones take too long.

    What a token needs is the same in both, but for what the model has as `per_pair`.
    """
    predicted = guess * shape(SHORT).B // SHORT
    try:
        low, high, tries = _run_into(
            contender, lambda b: shape(SHORT, B=b), work, device, predicted, share, unit=1
        )
    except RuntimeError as problem:
        return {"reason": f"{reason}; in short sequences: {problem}"[:240]}
    return {
        "reason": f"{reason}; as many tokens were run as sequences of {SHORT:,}",
        "batch_n": SHORT,
        "batch_predicted": predicted,
        "batch_fits": low,
        "batch_fails": high,
        "batch_error": None if low == 0 else predicted / low - 1,
        "tries": tries,
    }


def _run_into(contender, shape, work, device: str, guess: int, share: float, unit: int = STEP):
    """(the largest that fits `share` of the memory, the least that does not, calls that it took).

    `shape(n)` is what is run for n. Raises RuntimeError for a call that fails in another way.
    """
    seen = {}

    def fits(n):
        seen[n] = _try(contender, shape(n), work, device, peaks=False)
        if seen[n]["status"] != "ok" and not seen[n].get("out_of_memory"):
            raise RuntimeError(f"at {shape(n)}: {seen[n]['reason']}")
        return seen[n]["status"] == "ok"

    limit_memory(share, device)
    try:
        low, high = largest(fits, guess, unit=unit)
    finally:
        limit_memory(1.0, device)
    return low, high, len(seen)


def capacity(device: str) -> int:
    """Bytes that this process can allocate."""
    if device != "cuda":
        return 80 * GIB
    runner.free(device)
    free, _ = torch.cuda.mem_get_info()
    return free + torch.cuda.memory_reserved()


def limit_memory(share: float, device: str) -> None:
    """Let the allocator have this share of `capacity`, and no more."""
    if device == "cuda":
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        share = 1.0 if share >= 1 else share * capacity(device) / total
        torch.cuda.set_per_process_memory_fraction(share)
