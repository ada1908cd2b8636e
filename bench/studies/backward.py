"""The backward pass: whole, by kernel, in variants, in memory and in accuracy.

Rows are told apart by the column `part`:

- `operator`: forward, backward and both of a contender at a shape; `floor_ms` is a copy of the
  bytes that this work has to move
- `memory`: what is held between forward and backward, and the peak of both, beside the inputs
- `kernel`: each kernel of the library's backward pass, as it runs there, by the profiler;
  `floor_ms` is a copy of the bytes that this kernel has to move
- `variant`: recomputing against saving, in the bidirectional backward pass
- `accuracy`: relative errors of the gradients by length and mean of the values

Everything is compared with float64 before it is timed; what is wrong is said to be wrong.
"""

import gc
import math
import time
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F

from .. import (
    compiled,
    contenders,
    floor,
    gate,
    hardware,
    passes,
    profiling,
    roofline,
    runner,
    truth,
)
from ..roofline import FORWARD, FORWARD_BACKWARD, Shape
from ..runner import Inputs, one_line
from ..timing import Sampling

ABOUT = "the backward pass: time by kernel, recomputing against saving, memory, accuracy"
AT = "B H N D dtype causal status"
KIND = "part"
COLUMNS = {
    "memory": f"{AT} reason | contender held_MiB peak_MiB",
    "operator": f"{AT} reason | contender work bytes error median_ms floor_ms spread",
    "kernel": f"{AT} | kernel launches parts median_ms share",
    "variant": f"{AT} reason | variant bytes error median_ms floor_ms",
    "accuracy": f"{AT} | contender mean",
}

BACKWARD = "backward"
H, N, D = 8, 65536, 64
BATCHES = (8, 1)
FULL = Sampling(least=3, most=40, budget_s=0.25, warm_up=1)
QUICK = Sampling(least=3, most=15, budget_s=0.05, warm_up=1)
FULL_S, QUICK_S = 57.0, 14.0  # so long after compiling nothing further is begun
LENGTHS = (1024, 8192, 65536)


def outside(q, k, v, *, causal):
    """The library's kernels with φ computed before them, in PyTorch: autograd keeps more."""
    from kernels import linear_attention

    return linear_attention(q, k, v, causal=causal, feature_map=lambda x: F.elu(x) + 1)


OUTSIDE = contenders.Contender(
    name="book-outside",
    label="This book, φ in PyTorch",
    function=truth.LINEAR,
    forward=outside,
    note="kernels.linear_attention with φ = elu + 1 as a callable",
)


def entrant(name: str) -> contenders.Contender:
    """A contender by name; `book-outside` takes part here alone."""
    return OUTSIDE if name == OUTSIDE.name else contenders.get(name)


@dataclass
class Watch:
    """What all parts share."""

    clock: object
    sampling: Sampling
    quick: bool
    end: float
    dtype: str
    device: str = "cuda"
    H: int = H  # this and the rest are less only where a test runs this without a GPU
    N: int = N
    lengths: tuple = LENGTHS
    batches: tuple = BATCHES
    held: tuple | None = None  # the shape that was asked for last, and its inputs

    def inputs(self, shape: Shape) -> Inputs:
        """Inputs with gradients; those of the shape before are kept, with the truth."""
        if self.held is None or self.held[0] != shape:
            self.held = None
            self.held = shape, Inputs(shape, True, self.device)
        return self.held[1]

    @property
    def over(self) -> bool:
        return time.monotonic() > self.end

    def shape(self, B: int, causal: bool) -> Shape:
        return Shape(B, self.H, self.N, D, D, self.dtype, causal)

    def times(self, calls: dict, **context) -> dict[str, dict]:
        """Race the calls; for each of them the columns of a row."""
        return runner.times(calls, self.clock, self.sampling, **context)


def measure(quick: bool, say, watch: Watch | None = None) -> list[dict]:
    """All parts, what matters most first; one that fails leaves a row that says why."""
    if watch is None:
        from ..timing import DeviceClock

        dtype = str(hardware.default_dtype()).removeprefix("torch.")
        watch = Watch(DeviceClock(), QUICK if quick else FULL, quick, math.inf, dtype)
        if quick:
            watch.lengths = LENGTHS[::2]
            compile_all(watch)
        watch.end = time.monotonic() + (QUICK_S if quick else FULL_S)
    begin = time.monotonic()
    rows = []
    linear, softmax = ("book", "eager"), ("sdpa-cudnn", "sdpa-flash")
    orders, (many, few) = (False, True), watch.batches
    jobs = [(operators, B, c, (n,)) for B in watch.batches for c in orders for n in linear]
    jobs += [(kernels_alone, B, c, ()) for B in watch.batches for c in orders]
    jobs += [(variants, B, False, ()) for B in watch.batches]
    jobs += [(operators, B, False, ("book-outside",)) for B in watch.batches]
    jobs += [
        (accuracy, few, False, (*linear, "step", "centred", "state centred")),
        (accuracy, few, True, linear),
    ]
    jobs += [(operators, few, c, (n,)) for c in orders for n in softmax]
    if not quick:
        jobs += [(operators, many, c, (n,)) for c in orders for n in softmax]
    for job, B, causal, names in jobs:
        what = f"{job.__name__} {' '.join(names)} {watch.shape(B, causal)}"
        before = len(rows)
        if job is not operators:
            watch.held = None
        if watch.over:
            rows.append(_row(job, watch, B, causal, names) | _left_out())
        else:
            try:
                rows += job(watch, B, causal, *names)
            except Exception as problem:
                fact = {"status": "failed", "reason": one_line(problem)}
                rows.append(_row(job, watch, B, causal, names) | fact)
                del problem
        gc.collect()
        if watch.device == "cuda":
            torch.cuda.empty_cache()
        say(f"{what}: {len(rows) - before} rows, {time.monotonic() - begin:.1f} s")
    return rows


def compile_all(watch: Watch) -> None:
    """Call the library at every shape, several at a time: compiling takes longer than measuring."""

    def call(B, causal):
        dtype = getattr(torch, watch.dtype)
        x = torch.zeros(B, watch.H, watch.N, D, device=watch.device, dtype=dtype)
        q, k, v = (x.detach().requires_grad_() for _ in "qkv")
        o = entrant("book").forward(q, k, v, causal=causal)
        torch.autograd.grad(o, (q, k, v), x)

    compiled.at_once([partial(call, B, c) for B in watch.batches for c in (False, True)])


PART = {"operators": "operator", "kernels_alone": "kernel", "variants": "variant"}


def _row(job, watch, B, causal, names) -> dict:
    part = PART.get(job.__name__, job.__name__)
    row = {"part": part, **_where(watch.shape(B, causal))}
    return row | ({"contender": names[0]} if len(names) == 1 else {})


def _left_out() -> dict:
    return {"status": "skipped", "reason": "the time of this study was over", "median_ms": None}


def _where(shape: Shape) -> dict:
    found = asdict(shape)
    del found["Dv"]
    return found


def ideal(shape: Shape, work: str) -> int:
    """Bytes that forward, backward or both have to move."""
    if work == BACKWARD:
        forward, both = (roofline.ideal_bytes(shape, w) for w in roofline.WORKS)
        return both - forward
    return roofline.ideal_bytes(shape, work)


# ------------------------------------------------------------------------------ whole operators


def operators(watch: Watch, B: int, causal: bool, name: str):
    """Gate, memory and times of one contender at one shape."""
    shape = watch.shape(B, causal)
    one = entrant(name)
    where = {"contender": name, **_where(shape)}
    why = one.available() or one.refusal(shape)
    if why is not None:
        return [{"part": "operator", **where, "status": "failed", "reason": why}]
    inputs = watch.inputs(shape)
    q, k, v = (x.requires_grad_() for x in (inputs.q, inputs.k, inputs.v))
    with one.context():
        memory, outputs = _memory(watch, lambda: one.forward(q, k, v, causal=causal), inputs)
    rows = [{"part": "memory", **where, "status": "ok", "reason": None, **memory}]
    verdict = gate.judge(outputs, inputs.truth(one.function), shape.dtype)
    del outputs
    if not verdict.ok:
        wrong = {"status": "wrong", "reason": verdict.reason, "error": verdict.error}
        return [{"part": "operator", **where, **wrong}]
    o = _within(one, lambda: one.forward(q, k, v, causal=causal))
    calls = {
        FORWARD: torch.no_grad()(lambda: one.forward(q, k, v, causal=causal)),
        BACKWARD: lambda: torch.autograd.grad(o, (q, k, v), inputs.do, retain_graph=True),
    }
    if not (one.function.family == "softmax" and B > 1):  # seconds, and the race has it
        calls[FORWARD_BACKWARD] = lambda: torch.autograd.grad(
            one.forward(q, k, v, causal=causal), (q, k, v), inputs.do
        )
    for work, fact in watch.times(calls, context=one.context).items():
        moved = ideal(shape, work)
        row = {"part": "operator", "work": work, **where, **fact, "error": verdict.error}
        rows.append(row | {"bytes": moved, "floor_ms": _copy_ms(watch, moved)})
    return rows


def _within(one, call):
    with one.context():
        return call()


def _memory(watch, forward, inputs):
    """What forward leaves and the peak of both beside the inputs [MiB], and all that came out."""
    q, k, v, do = inputs.q, inputs.k, inputs.v, inputs.do
    if watch.device == "cuda":
        torch.cuda.synchronize()
        gate.poison([q, v])
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    o = forward()
    held = torch.cuda.memory_allocated() - before if watch.device == "cuda" else 0
    gradients = torch.autograd.grad(o, (q, k, v), do)
    peak = torch.cuda.max_memory_allocated() - before if watch.device == "cuda" else 0
    outputs = dict(zip(("o", "dq", "dk", "dv"), (o.detach(), *gradients), strict=True))
    return {"held_MiB": held / 2**20, "peak_MiB": peak / 2**20}, outputs


_copies = {}  # (clock, bytes) -> ms


def _copy_ms(watch: Watch, nbytes: int):
    """Time of a copy that moves this many bytes; measured once for each number of bytes."""
    key = (id(watch.clock), nbytes)
    if key not in _copies:
        fact = watch.times({"copy": floor.copy_call(nbytes, watch.device)})["copy"]
        _copies[key] = fact["median_ms"]
    return _copies[key]


# ------------------------------------------------------------------------------- kernel by kernel


def kernels_alone(watch: Watch, B: int, causal: bool):
    """The kernels of one call of the library's backward pass, the longest first."""
    shape = watch.shape(B, causal)
    inputs = Inputs(shape, True, watch.device)
    q, k, v = (x.requires_grad_() for x in (inputs.q, inputs.k, inputs.v))
    o = entrant("book").forward(q, k, v, causal=causal)

    def call():
        return torch.autograd.grad(o, (q, k, v), inputs.do, retain_graph=True)

    rows, parts = [], parts_of(shape, q)
    for fact in profiling.kernel_times(call, repeats=3 if watch.quick else 10):
        if fact["share"] < 0.001:
            continue
        known = passes.of_kernel(fact["kernel"], causal, fact["launches"])
        moved = passes.moved(known, shape, parts) or None
        rows.append(
            {
                "part": "kernel",
                **_where(shape),
                "status": "ok",
                "kernel": fact["kernel"],
                "launches": fact["launches"],
                "median_ms": fact["ms"],
                "share": fact["share"],
                "parts": parts,
                "bytes": moved,
                "floor_ms": _copy_ms(watch, moved) if moved else None,
            }
        )
    return rows


def parts_of(shape: Shape, q) -> int:
    """Into how many parts the library cuts a head for the first walk of a backward pass."""
    from kernels import configs

    kernel = "causal_backward_query_kernel" if shape.causal else "backward_query_kernel"
    return configs.plan(kernel, q, shape.Dv, shape.B * shape.H, None)[1]


# ------------------------------------------------------------------------------------- variants


def variants(watch: Watch, B: int, causal: bool):
    """The chapter's kernels: all computed again, o and d read, S centred twice, a term gone."""
    from kernels.steps.backward import centred, joined, missing, normalized, saved

    shape = watch.shape(B, causal)
    inputs = Inputs(shape, True, watch.device)
    q, k, v, do = inputs.q, inputs.k, inputs.v, inputs.do
    state = joined.state_of(k, v)
    o = joined.strided.output(q, state, D)
    fz = (F.elu(q) + 1).float() * state[:, D * D :].reshape(B, shape.H, 1, D)
    denominator = fz.sum(-1) + joined.EPS  # [B, H, N] float32
    del fz
    calls = {
        "recompute": lambda: joined.backward(q, k, v, state, do),
        "read o and d": lambda: joined.backward_saved(q, k, v, state, o, denominator, do),
        "centred in the kernel": lambda: joined.backward(q, k, v, state, do, centred),
        "state centred": lambda: joined.backward_centred(q, k, v, state, do),
        "a term missing": lambda: joined.backward(q, k, v, state, do, missing),
    }
    extra = {"read o and d": replace(passes.BACKWARD[False][0], reads=("o",), writes=(),
                                     word_reads=("d",))}  # fmt: skip
    rows, right = {}, {}
    modules = {"read o and d": saved, "centred in the kernel": centred, "a term missing": missing}
    for name, call in calls.items():
        gate.poison([q, k, v])
        kernel = modules.get(name, normalized).query_kernel
        with compiled.caught(kernel) as ran:
            outputs = dict(zip(("dq", "dk", "dv"), call(), strict=True))
        facts = compiled.describe(ran[0], sass=False) if hasattr(ran[0], "asm") else None
        verdict = gate.judge(outputs, inputs.truth(truth.LINEAR), shape.dtype)
        moved = passes.moved(passes.BACKWARD[False], shape)
        moved += extra[name].bytes(shape) if name in extra else 0
        rows[name] = {"part": "variant", "variant": name, **_where(shape), "bytes": moved,
                      "error": verdict.error,
                      "registers": facts and facts.registers,
                      "local_bytes": facts and facts.local}  # fmt: skip
        if verdict.ok:
            right[name] = call
        else:
            fact = {"status": "wrong", "reason": verdict.reason, "median_ms": None}
            rows[name] |= fact
        del outputs
    for name, fact in watch.times(right).items():
        rows[name] |= fact | {"floor_ms": _copy_ms(watch, rows[name]["bytes"])}
    return list(rows.values())


# ------------------------------------------------------------------------------------- accuracy


def accuracy(watch: Watch, B: int, causal: bool, *names):
    """Relative errors of o and the gradients by length and by the mean of the values."""
    rows = []
    lengths = watch.lengths[-1:] if causal else watch.lengths  # its truth takes seconds
    for n, mean in [(n, mean) for n in lengths for mean in (0, 1)]:
        shape = replace(watch.shape(B, causal), N=n)
        inputs = Inputs(shape, True, watch.device)
        inputs.v += mean
        q, k, v = (x.requires_grad_() for x in (inputs.q, inputs.k, inputs.v))
        true = inputs.truth(truth.LINEAR)
        for name in names:
            o = small(name, q, k, v)
            o = entrant(name).forward(q, k, v, causal=causal) if o is None else o
            found = {"o": o.detach()}
            gradients = torch.autograd.grad(o, (q, k, v), inputs.do)
            found |= dict(zip(("dq", "dk", "dv"), gradients, strict=True))
            errors = {}
            for what, got in found.items():
                got = got.flatten(0, 1)[true.heads].double()
                error = gate.relative_errors(got, true.tensors[what])[0].item()
                errors[f"error_{what}"] = error if error == error else None
            where = {"contender": name, **_where(shape), "mean": mean}
            rows.append({"part": "accuracy", **where, "status": "ok", **errors})
    return rows


def small(name: str, q, k, v):
    """o by the kernels of the chapter, differentiable; None where it is another's name."""
    from kernels.steps.backward import centred, joined, normalized

    ways = {"step": normalized, "centred": centred, "state centred": None}
    return joined.attention(q, k, v, ways[name]) if name in ways else None
