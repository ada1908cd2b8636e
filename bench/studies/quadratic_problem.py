"""Time and peak memory of four ways to attention by length, each until it fails.

Three ways compute softmax attention and one linear attention, all of one shape (1, 8, N, 64):

- `naive`: chapter 1's definition as it is written, an operation of PyTorch after the other;
- `math`: the same inside `F.scaled_dot_product_attention`, in the backend called MATH;
- `tiled`: the backend FLASH_ATTENTION, or EFFICIENT_ATTENTION where the GPU has no other;
- `linear`: this book's `kernels.linear_attention`.

Rows of three kinds, told apart by the column `what`:

- `length`: one way at one N. `peak_bytes` counts the inputs and all tensors that the call held
  beside them at its worst moment, and `reserved_bytes` the blocks that PyTorch's allocator took
  from the GPU for them. `status` is "ok", "oom", "failed", "wrong", or "too_long" where a call
  would take longer than the study can wait; a way ends with its first row that is not "ok".
- `limit`: the longest N that `naive` was seen to finish and the shortest at which it ran out of
  memory, `step` tokens apart, with what PyTorch said. `allocator` is "default" or, as a second try
  with the backward pass, "expandable": its blocks may then grow and shrink.
- `stage`: the four operations of `naive`, timed one by one, with the bytes that each moves.

Before any is timed, its output and gradients are compared with float64 at a short N, as
everything is that this book times; at every other N 16 rows of its output are.
"""

import gc
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from .. import contenders, gate, hardware, timing
from ..contenders import Contender
from ..roofline import FORWARD_BACKWARD, WORKS, Shape
from ..runner import Inputs, one_line, prepare
from ..truth import SOFTMAX

ABOUT = "time and peak memory of attention by length, up to the length at which each way fails"
KIND = "what"
COLUMNS = {
    "length": (
        "B H D dtype way backend? work N status reason | error median_ms p20_ms p80_ms peak_bytes"
    ),
    "limit": "B H D dtype way work fits_N fails_N step reason",
    "stage": "B H D dtype stage N bytes flops median_ms p20_ms p80_ms",
}

BATCH, HEADS, HEAD_DIM = 1, 8, 64
SHORT = 1024  # where outputs and gradients are compared in full
CHECKED_ROWS = 16
WAYS = ("naive", "tiled", "linear", "math")  # in the order in which they are measured
LIMITED = "naive"  # the way of which the last length that fits is looked for


@dataclass(frozen=True)
class Extent:
    """How much to measure."""

    lengths: tuple[int, ...]
    longest_call_ms: float  # a call that is predicted to take longer is not made
    sampling: timing.Sampling
    step: int  # resolution of the search for the longest N
    stages: tuple[int, ...]  # the lengths at which the operations are timed one by one
    expandable: bool  # whether to look for the longest N with the other allocator too
    budget_s: float  # after it no further length is begun


FULL_S, QUICK_S = 46.0, 9.0
FULL = Extent(
    lengths=(*(2**i for i in range(9, 17)), 2**18, 2**20, 2**22),  # 512 … 64K, 256K, 1M, 4M
    longest_call_ms=600.0,
    sampling=timing.Sampling(least=3, most=30, budget_s=0.06, warm_up=1),
    step=1024,
    stages=(8192, 16384),
    expandable=True,
    budget_s=FULL_S,
)
QUICK = Extent(
    lengths=tuple(2**i for i in range(10, 21, 2)),  # 1K … 1M
    longest_call_ms=120.0,
    sampling=timing.Sampling(least=3, most=10, budget_s=0.03, warm_up=1),
    step=2048,
    stages=(16384,),
    expandable=False,
    budget_s=QUICK_S,
)


class Memory:
    """The device's memory, as PyTorch's allocator counts it."""

    device = "cuda"

    def free(self) -> int:
        """Bytes that nobody has."""
        self.clear()
        return torch.cuda.mem_get_info()[0]

    def clear(self, failed: bool = False) -> None:
        """Give back what is no longer used; a failed call may have left tensors in a cycle."""
        if failed:
            gc.collect()
        torch.cuda.empty_cache()

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def peak(self, call: Callable) -> tuple[int, int]:
        """(tensors, blocks): bytes held at the worst moment of a call, beside those before it."""
        torch.cuda.synchronize()
        gc.collect()  # gradients of the call before, if a cycle holds them
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        most = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
        return most[0] - before[0], most[1] - before[1]

    def expandable(self, on: bool) -> bool:
        """Let blocks grow and shrink, or not; False where this PyTorch cannot."""
        self.clear()
        change = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
        try:
            change = change or torch.cuda.memory._set_allocator_settings
            change(f"expandable_segments:{on}")
        except Exception:
            return False
        return True


def naive(q, k, v, *, causal: bool):
    """Chapter 1's definition, bidirectional: scores, scaled scores and weights are [B, H, N, N]."""
    if causal:
        raise ValueError("this study is bidirectional")
    s = q @ k.mT / math.sqrt(q.shape[-1])
    p = torch.softmax(s, -1)
    return p @ v


def _sdpa(q, k, v, *, causal: bool):
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def _backend(name: str) -> Callable:
    """A context in which SDPA has this backend alone."""

    def context():
        from torch.nn.attention import SDPBackend, sdpa_kernel

        return sdpa_kernel(getattr(SDPBackend, name))

    return context


def candidates(way: str) -> Iterator[tuple[str, Contender]]:
    """(what the column `backend` says, contender): the ones to try for a way, the best first."""
    if way == "naive":
        yield "operations", Contender("naive", "As defined", SOFTMAX, naive, "bench/studies")
    elif way == "linear":
        kernels_run = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
        yield "kernels" if kernels_run else "reference", contenders.get("book")
    else:
        names = ("MATH",) if way == "math" else ("FLASH_ATTENTION", "EFFICIENT_ATTENTION")
        for name in names:
            label = f"SDPA {name}"
            yield name, Contender(way, label, SOFTMAX, _sdpa, label, context=_backend(name))


@dataclass
class Rows:
    """What is measured, and what all rows have in common."""

    dtype: str
    memory: Memory
    clock: object
    extent: Extent
    say: Callable[[str], None]
    rows: list[dict] = field(default_factory=list)
    begin: float = field(default_factory=time.monotonic)

    @property
    def late(self) -> bool:
        return time.monotonic() - self.begin > self.extent.budget_s

    def add(self, what: str, **columns) -> dict:
        shape = {"B": BATCH, "H": HEADS, "D": HEAD_DIM, "dtype": self.dtype}
        self.rows.append({"what": what} | shape | columns)
        return self.rows[-1]

    def shape(self, N: int) -> Shape:
        return Shape(BATCH, HEADS, N, HEAD_DIM, HEAD_DIM, self.dtype)


def measure(quick: bool, say: Callable[[str], None]) -> list[dict]:
    """All rows, on the current GPU."""
    dtype = str(hardware.default_dtype()).removeprefix("torch.")
    extent = QUICK if quick else FULL
    return collect(Rows(dtype, Memory(), timing.DeviceClock(), extent, say))


def collect(rows: Rows) -> list[dict]:
    """Lengths and limits of every way; after the definition, its stages."""
    for way in WAYS:
        for work in WORKS:
            by_length(rows, way, work)
            if way == LIMITED:
                limit(rows, work)
        if way == LIMITED:
            stages(rows)
    if rows.extent.expandable and not rows.late and rows.memory.expandable(True):
        limit(rows, FORWARD_BACKWARD, "expandable")
        rows.memory.expandable(False)
    return rows.rows


def admitted(rows: Rows, way: str, work: str) -> tuple[str, Contender | None, str]:
    """(backend, contender or None, what was wrong) of the first candidate that is right at SHORT.

    The output, and with the backward pass the gradients, are those that the book's gate compares.
    """
    wrong = []
    for backend, contender in candidates(way):
        try:
            inputs = Inputs(rows.shape(SHORT), work == FORWARD_BACKWARD, rows.memory.device)
            call, outputs = prepare(contender, inputs, work)
            with contender.context():
                found = outputs(call())
            verdict = gate.judge(found, inputs.truth(contender.function), rows.dtype)
            if verdict.ok:
                return backend, contender, ""
            wrong.append(("wrong", verdict.reason))
        except Exception as problem:
            wrong.append((_status(problem), one_line(problem)))
        rows.memory.clear(failed=True)
    rows.add("length", way=way, work=work, N=SHORT, backend=None, status=wrong[-1][0],
             reason="; ".join(reason for _, reason in wrong))  # fmt: skip
    rows.say(f"  {way}, {work}: {wrong[-1]}")
    return "", None, wrong[-1][1]


def by_length(rows: Rows, way: str, work: str) -> None:
    """Rows of a way, from short to long, until it fails, takes too long, or the time is up."""
    if rows.late:
        rows.say(f"  {way}, {work}: time is up")
        return
    backend, contender, _ = admitted(rows, way, work)
    if contender is None:
        return
    before = None  # (N, ms) of the length before
    for N in rows.extent.lengths[:: 2 if way == "math" else 1]:
        common = {"way": way, "backend": backend, "work": work, "N": N}
        power = 1 if way == "linear" else 2
        least = before[1] * (N / before[0]) ** power if before else 0.0
        if least > rows.extent.longest_call_ms:
            why = f"a call is predicted to take {least / 1e3:.2g} s: longer than this study waits"
            rows.add("length", status="too_long", reason=why, **common)
            return
        if rows.late:
            rows.say(f"  {way}, {work}: time is up before N = {N}")
            return
        found = one_length(rows, contender, N, work)
        rows.memory.clear(failed=found["status"] != "ok")
        row = rows.add("length", **common, **found)
        ms = row.get("median_ms")
        rows.say(f"  {way}, {work}, N = {N}: {row['status']} {ms or row.get('reason')}")
        if row["status"] != "ok":
            return
        before = (N, ms)


def one_length(rows: Rows, contender: Contender, N: int, work: str) -> dict:
    """The columns of a way at one N: verified, then its peak, then its time."""
    memory = rows.memory
    try:
        shape = rows.shape(N)
        inputs = Inputs(shape, work == FORWARD_BACKWARD, memory.device)
        call, outputs = prepare(contender, inputs, work)

        def within():
            with contender.context():
                return call()

        picked = torch.linspace(0, N - 1, min(N, CHECKED_ROWS), device=memory.device).long()
        result = outputs(within())
        got = result["o"][0, 0, picked].double()
        finite = all(bool(torch.isfinite(x.sum(dtype=torch.float32))) for x in result.values())
        del result
        error = relative_error(got, exact(contender.function, inputs, picked))
        allowed = gate.BLOCK_FACTOR * gate.tolerance("o", rows.dtype)
        if not (finite and error <= allowed):
            said = f"{CHECKED_ROWS} rows of o have relative error {error:.2g}"
            said += "" if finite else ", and a sum over a result is not finite"
            return {"status": "wrong", "reason": said}

        narrow = inputs.q.nbytes * (4 if work == FORWARD_BACKWARD else 3)  # q, k, v and do
        peak, reserved = (narrow + more for more in memory.peak(within))
        lane = timing.Lane(call, contender.context)
        timing.race([lane], rows.clock, rows.extent.sampling)
        if lane.failure is not None:
            failed, lane.failure = lane.failure, None
            return {"status": _status(failed), "reason": one_line(failed)}
        return {
            "status": "ok",
            "reason": None,
            "median_ms": lane.percentile(50),
            "p20_ms": lane.percentile(20),
            "p80_ms": lane.percentile(80),
            "samples": len(lane.device_ms),
            "host_ms": lane.host_median_ms,
            "peak_bytes": peak,
            "reserved_bytes": reserved,
            "inputs_bytes": narrow,
            "error": error,
            **lane.marks,
        }
    except Exception as problem:
        return {"status": _status(problem), "reason": one_line(problem)}


def exact(function, inputs: Inputs, picked):
    """Attention of some queries of the first head to all its keys, in float64: [rows, Dv]."""
    q, k, v = (x[0, 0].double() for x in (inputs.q, inputs.k, inputs.v))
    q = q[picked]
    if function.family == "softmax":
        return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ v
    weights = (F.elu(q) + 1) @ (F.elu(k) + 1).mT
    return weights @ v / weights.sum(-1, keepdim=True)


def relative_error(got, want) -> float:
    """‖got - want‖ / ‖want‖; NaN where `got` has one."""
    return ((got - want).norm() / want.norm()).item()


def limit(rows: Rows, work: str, allocator: str = "default") -> None:
    """Between the last length that went well and the first without memory, look for the last."""
    here = {"what": "length", "way": LIMITED, "work": work}
    seen = [r for r in rows.rows if here.items() <= r.items()]
    if len(seen) < 2 or seen[-1]["status"] != "oom":
        return
    fits, fails, said = seen[-2]["N"], seen[-1]["N"], seen[-1]["reason"]
    _, contender = next(candidates(LIMITED))
    step = rows.extent.step
    if allocator != "default":
        fails, said = 2 * fails, None  # where blocks fit better, that length need not fail
    free = rows.memory.free()
    while fails - fits > step:
        N = max(fits + step, (fits + fails) // 2 // step * step)
        problem = once(rows, contender, N, work)
        rows.memory.clear(failed=problem is not None)
        if problem is None:
            fits = N
        elif _status(problem) == "oom":
            fails, said = N, one_line(problem)
        else:
            rows.say(f"  {LIMITED}, {work}, N = {N}: {one_line(problem)}")
            return
    if said is None:  # no length was seen to fail
        return
    rows.add("limit", way=LIMITED, work=work, allocator=allocator, fits_N=fits, fails_N=fails,
             step=step, free_bytes=free, reason=said)  # fmt: skip
    rows.say(f"  {allocator}, {work}: {fits} fits, {fails} does not, of {free / 1e9:.1f} GB")


def once(rows: Rows, contender: Contender, N: int, work: str) -> Exception | None:
    """Run a way once at N: None, or the exception, without the tensors that it would hold."""
    try:
        inputs = Inputs(rows.shape(N), work == FORWARD_BACKWARD, rows.memory.device)
        call, _ = prepare(contender, inputs, work)
        with contender.context():
            call()
        rows.memory.synchronize()
        return None
    except Exception as problem:
        return problem.with_traceback(None)


def stages(rows: Rows) -> None:
    """The four operations of the definition, one by one, at the lengths where they fit."""
    for N in rows.extent.stages:
        try:
            found = time_stages(rows, N)
        except torch.OutOfMemoryError as problem:
            rows.say(f"  stages, N = {N}: {one_line(problem)}")
            found = []
        for row in found:
            rows.add("stage", **row)
        rows.memory.clear(failed=not found)


def time_stages(rows: Rows, N: int) -> list[dict]:
    """Rows of the stages at one N, with the bytes that each reads and writes."""
    inputs = Inputs(rows.shape(N), False, rows.memory.device)
    q, k, v = inputs.q, inputs.k, inputs.v
    root = math.sqrt(HEAD_DIM)
    with torch.no_grad():
        s = q @ k.mT
        p = torch.softmax(s / root, -1)
        narrow, square = q.nbytes, s.nbytes
        products = 2 * BATCH * HEADS * N * N * HEAD_DIM
        lanes = {
            "scores": (lambda: q @ k.mT, 2 * narrow + square, products),
            "scale": (lambda: s / root, 2 * square, 0),
            "softmax": (lambda: torch.softmax(s, -1), 2 * square, 0),
            "output": (lambda: p @ v, square + 2 * narrow, products),
            "copy": (s.clone, 2 * square, 0),
        }
        racing = {name: timing.Lane(call) for name, (call, _, _) in lanes.items()}
        timing.race(list(racing.values()), rows.clock, rows.extent.sampling)
    failed = [lane.failure for lane in racing.values() if lane.failure is not None]
    if failed:
        raise failed[0]
    return [
        {
            "stage": name,
            "N": N,
            "bytes": lanes[name][1],
            "flops": lanes[name][2],
            "median_ms": lane.percentile(50),
            "p20_ms": lane.percentile(20),
            "p80_ms": lane.percentile(80),
        }
        for name, lane in racing.items()
    ]


def _status(problem: BaseException) -> str:
    """oom where the memory was not enough, else failed."""
    text = str(problem).lower()
    short = isinstance(problem, torch.OutOfMemoryError) or "out of memory" in text
    return "oom" if short else "failed"
