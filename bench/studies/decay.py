"""What a decay costs, forward and backward, in one direction and in both, and what it loses.

Rows, by `part`:

- `time`: a way at a shape, for `work` forward or forward+backward; `floor_ms` is a copy of the
  ideal bytes of linear attention. Ways of this book: `plain`, without decay; `fixed`, one decay for
  each head; `selective`, one for each token too; `strong`, the same with chunks that lose nearly
  everything, for which there is another kernel; `ready`, selective without φ and normalizer, which
  is the function of `simple-gla`, fla's chunk_simple_gla. Both of these are given φ(q) and φ(k).
- `length`: the same, causal and forward, by N.
- `accuracy`: relative errors of outputs and gradients in the dtype of the GPU by the horizon of all
  heads, 1 / (1 - exp(g)) tokens; None is no decay.

Everything is compared with float64 before it is timed. Takes two to three minutes in full, of which
the first shape, where all is compiled and fla tunes itself, takes most. In quick form times are
those of the forward pass and of many heads.
"""

import gc
import math
import time
from dataclasses import dataclass, field
from functools import partial

import torch

from kernels import linear_attention, reference
from kernels.feature_maps import FEATURE_MAPS

from .. import compiled, contenders, floor, gate, hardware, precompile, roofline
from ..roofline import FORWARD, FORWARD_BACKWARD, WORKS, Shape
from ..runner import Plan, columns, one_line
from ..timing import DeviceClock, Lane, Sampling, race
from ..truth import LINEAR, Function, Truth, pick_heads

ABOUT = "decay: time with and without, causal and in both directions, beside fla; accuracy"
TIMED = "status reason | B H N D causal way work bytes error median_ms floor_ms spread"
KIND = "part"
COLUMNS = {
    "time": TIMED,
    "length": TIMED,
    "accuracy": "status reason | horizon? o_error",
}

H, N, D = 8, 65536, 64
BATCHES = (8, 1)
LENGTHS = tuple(2**i for i in range(12, 19))
HORIZONS = (1, 4, 16, 64, 256, 1024, 4096, None)
FULL = Sampling(least=5, most=40, budget_s=0.25)
QUICK = Sampling(least=3, most=15, budget_s=0.05, warm_up=1)
FULL_S, QUICK_S = 130.0, 10.0  # after these seconds nothing further is begun

READY = Function("linear", feature_map="identity", normalize=False)
ELU = FEATURE_MAPS["elu"]


@dataclass(frozen=True)
class Way:
    """One way to compute attention with decay: what it is given, and what it computes."""

    decay: str | None  # "fixed", "selective", "strong" or None
    function: Function = LINEAR
    causal: tuple = (True, False)
    theirs: bool = False  # fla's, which keeps the heads beside the features


WAYS = {
    "plain": Way(None),
    "fixed": Way("fixed"),
    "selective": Way("selective"),
    "strong": Way("strong"),
    "ready": Way("selective", READY, (True,)),
    "simple-gla": Way("selective", READY, (True,), theirs=True),
}


def retnet(heads: int, device="cpu") -> torch.Tensor:
    """log(1 - 2^(-5 - h)) [heads]: the decays of RetNet, horizons of 32 tokens and more."""
    return torch.log1p(-(2.0 ** -(5.0 + torch.arange(heads, device=device))))


def log_decay(horizon: float | None) -> float:
    """log(1 - 1 / horizon): a token counts for so many tokens in all; None is for ever."""
    if horizon is None:
        return 0.0
    return math.log1p(-1 / horizon) if horizon > 1 else reference.FORGOTTEN


def random_decays(*shape, generator, device="cpu") -> torch.Tensor:
    """log σ(x) of random x around 3, as a layer of a model would make them: factors near 0.95."""
    x = torch.randn(shape, generator=generator, device=device) + 3
    return torch.nn.functional.logsigmoid(x)


@dataclass
class Watch:
    """What all parts share; everything but the clock is less where a test runs this on a CPU."""

    clock: object
    sampling: Sampling
    quick: bool
    end: float
    dtype: str
    device: str = "cuda"
    heads: int = H
    tokens: int = N
    batches: tuple = BATCHES
    lengths: tuple = LENGTHS
    held: dict = field(default_factory=dict)

    @property
    def over(self) -> bool:
        return time.monotonic() > self.end

    def shape(self, B, causal, tokens=None) -> Shape:
        return Shape(B, self.heads, tokens or self.tokens, D, D, self.dtype, causal)


class Inputs:
    """q, k, v, do and the decays of a shape, and the truth of each way."""

    def __init__(self, watch: Watch, B: int, tokens: int):
        generator = torch.Generator(watch.device).manual_seed(B)
        size, dtype = (B, watch.heads, tokens, D), getattr(torch, watch.dtype)
        draw = {"generator": generator, "device": watch.device}
        self.q, self.k, self.v, self.do = (torch.randn(size, **draw).to(dtype) for _ in range(4))
        self.decays = {
            None: None,
            "fixed": retnet(watch.heads, watch.device),
            "selective": random_decays(*size[:3], **draw),
            "strong": 40 * random_decays(*size[:3], **draw),
        }
        self.ready = None  # φ(q) and φ(k), when asked for
        self.truths = {}

    def given(self, way: Way) -> list:
        """q, k, v and the decay as a way takes them, but for the layout."""
        q, k = self.q, self.k
        if way.function == READY:
            if self.ready is None:
                self.ready = [ELU(x.float()).to(x.dtype) for x in (q, k)]
            q, k = self.ready
        return [q, k, self.v, self.decays[way.decay]]

    def truth(self, way: Way, shape: Shape, gradients: bool) -> Truth:
        """o and, asked for, dq, dk, dv and ddecay of some heads in float64."""
        key = way.decay, way.function, shape.causal
        found = self.truths.get(key)
        if found is None or (gradients and "dq" not in found.tensors):
            heads = pick_heads(shape, way.function)
            found = exact(way, *self.given(way), self.do if gradients else None, shape, heads)
            self.truths[key] = found
        return found


def exact(way: Way, q, k, v, decay, do, shape: Shape, heads: list[int]) -> Truth:
    """The chunked reference in float64 on some of the B·H heads, each as a batch of one head."""
    q, k, v = (x.flatten(0, 1)[heads].unsqueeze(0).double() for x in (q, k, v))
    leaves = [q, k, v]
    if decay is not None:
        decay = decay if decay.ndim == 3 else decay[None, :, None].expand(-1, -1, shape.N)
        decay = decay.expand(shape.B, -1, -1).flatten(0, 1)[heads].unsqueeze(0).double()
        leaves.append(decay)
    leaves = [x.requires_grad_(do is not None) for x in leaves]
    o = reference.chunked(
        *leaves[:3], decay=None if decay is None else leaves[3], causal=shape.causal,
        feature_map=way.function.feature_map, normalize=way.function.normalize,
    )  # fmt: skip
    tensors = {"o": o.detach()[0]}
    if do is not None:
        do = do.flatten(0, 1)[heads].unsqueeze(0).double()
        names = ("dq", "dk", "dv", "ddecay")
        found = torch.autograd.grad(o, leaves, do)
        tensors |= {n: g[0] for n, g in zip(names, found, strict=False)}
    return Truth(tensors, heads, (shape.B, shape.H), "float64 chunked linear attention with decay")


def call_of(way: Way, causal: bool):
    """(q, k, v, decay) -> o of a way, in its own layout."""
    if way.theirs:
        from fla.ops.simple_gla import chunk_simple_gla

        return lambda q, k, v, g: chunk_simple_gla(q, k, v, g=g)[0]

    def call(q, k, v, g):
        return linear_attention(
            q, k, v, decay=g, causal=causal,
            feature_map=way.function.feature_map, normalize=way.function.normalize,
        )  # fmt: skip

    return call


def once(way: Way, inputs: Inputs, causal: bool, gradients: bool) -> None:
    """A call for the sake of what it compiles."""
    leaves = [x if x is None else x.detach() for x in inputs.given(way)]
    asked = [x.requires_grad_(gradients) for x in leaves if x is not None]
    o = call_of(way, causal)(*leaves)
    if gradients:
        torch.autograd.grad(o, asked, inputs.do)


def laid_out(way: Way, tensors: list) -> list:
    """Tensors [B, H, N, ...] as a way takes them, and back: the same exchange."""
    if not way.theirs:
        return tensors
    return [x.transpose(1, 2).contiguous() for x in tensors]


def missing(way: Way) -> str | None:
    """Why a way cannot run here."""
    return contenders.get("fla-simple-gla").available() if way.theirs else None


def judged_by_work(way: Way, inputs: Inputs, shape: Shape, works) -> tuple[dict, dict]:
    """{work: status, reason, error} and the calls that may be timed, by work.

    A way whose backward pass cannot run may still have a forward pass.
    """
    facts, calls = {}, {}
    for gradients in (True, False) if FORWARD_BACKWARD in works else (False,):
        try:
            fact, calls = judged(way, inputs, shape, gradients)
        except Exception as problem:
            fact = {"status": "failed", "reason": one_line(problem)}
            del problem
        facts = dict.fromkeys(works, fact) if gradients else facts | {FORWARD: fact}
        if fact["status"] != "failed":
            break
    return facts, calls


def judged(way: Way, inputs: Inputs, shape: Shape, gradients: bool) -> tuple[dict, dict]:
    """A row's status, reason and error, and the calls that may be timed, by work."""
    why = missing(way)
    if why is not None:
        return {"status": "failed", "reason": why}, {}
    call = call_of(way, shape.causal)
    gate.poison([inputs.v])
    leaves = [x if x is None else x.detach() for x in laid_out(way, inputs.given(way))]
    do = laid_out(way, [inputs.do])[0]
    outputs = {}
    if gradients:
        asked = [x.requires_grad_() for x in leaves if x is not None]
        o = call(*leaves)
        found = torch.autograd.grad(o, asked, do)
        outputs = dict(zip(("dq", "dk", "dv"), laid_out(way, list(found[:3])), strict=True))
        slope = found[3].detach() if len(found) > 3 else None
        if slope is not None and way.theirs:
            slope = slope.transpose(1, 2)
    else:
        o, slope = call(*leaves), None
    outputs["o"] = laid_out(way, [o.detach()])[0]
    truth = inputs.truth(way, shape, gradients)
    verdict = gate.judge(outputs, truth, shape.dtype)
    row = {"status": "ok", "reason": None, "error": verdict.error}
    reason = verdict.reason
    if slope is not None and slope.ndim == 3:  # of a fixed one, all batches and tokens add up
        row["decay_error"] = slope_error(slope.flatten(0, 1)[truth.heads], truth)
        # of strong decays little more than the rounding of its terms is left
        limit = gate.tolerance("ddecay", shape.dtype) * (10 if way.decay == "strong" else 1)
        if not row["decay_error"] <= limit:
            reason = reason or f"ddecay has relative error {row['decay_error']:.2g} > {limit:.2g}"
    if reason is not None:
        return row | {"status": "wrong", "reason": reason}, {}

    forward = torch.no_grad()(lambda: call(*leaves))
    if not gradients:
        return row, {FORWARD: forward}
    both = lambda: torch.autograd.grad(call(*leaves), asked, do)  # noqa: E731
    return row, {FORWARD: forward, FORWARD_BACKWARD: both}


def slope_error(slope, truth: Truth) -> float:
    """The relative error of ddecay [heads, N], as a whole."""
    want = truth.tensors["ddecay"]
    return ((slope.double() - want).norm() / want.norm()).item()


def raced(watch: Watch, part: str, B: int, causal: bool, names, *, tokens=None, gradients):
    """Rows of some ways at one shape: gate first, then all in turns beside a copy."""
    shape = watch.shape(B, causal, tokens)
    key = B, shape.N
    if key not in watch.held:
        watch.held.clear()
        watch.held[key] = Inputs(watch, B, shape.N)
    inputs = watch.held[key]
    works = WORKS if gradients else (FORWARD,)
    if watch.device == "cuda":
        ours = [way for way in map(WAYS.get, names) if not way.theirs]
        compiled.at_once([partial(once, way, inputs, causal, gradients) for way in ours])
    moved = {work: roofline.ideal_bytes(shape, work) for work in works}
    where = {"part": part, "B": B, "H": shape.H, "N": shape.N, "D": D, "causal": causal}
    rows, lanes = {}, {}
    for name in names:
        facts, calls = judged_by_work(WAYS[name], inputs, shape, works)
        for work in works:
            row = {**where, "way": name, "work": work, "bytes": moved[work], **facts[work]}
            rows[name, work] = row
            if work in calls:
                lanes[name, work] = Lane(calls[work])
    copies = {work: Lane(floor.copy_call(moved[work], watch.device)) for work in works}
    race([*lanes.values(), *copies.values()], watch.clock, watch.sampling)
    for key, row in rows.items():
        row["floor_ms"] = columns(copies[key[1]])["median_ms"]
        row |= columns(lanes[key]) if key in lanes else {"median_ms": None}
        yield row


def times(watch: Watch, B: int, causal: bool):
    """Forward, and in full forward and backward, of all ways at (B, 8, 64K, 64)."""
    names = [n for n, way in WAYS.items() if causal in way.causal]
    return raced(watch, "time", B, causal, names, gradients=not watch.quick)


def lengths(watch: Watch, B: int):
    """Forward, causal, by N."""
    for tokens in watch.lengths[::3] if watch.quick else watch.lengths:
        if watch.over:
            yield {"part": "length", "B": B, "N": tokens, **left_out()}
            continue
        yield from raced(
            watch, "length", B, True, [n for n in WAYS if n not in ("ready", "strong")],
            tokens=tokens, gradients=False,
        )  # fmt: skip


def accuracy(watch: Watch):
    """Errors by horizon: a decay that is the same at all tokens and heads."""
    tokens = min(watch.tokens, 16384)
    inputs = Inputs(watch, 1, tokens)
    shape = watch.shape(1, True, tokens)
    heads = pick_heads(shape, LINEAR)[:2]
    for horizon in HORIZONS[::3] if watch.quick else HORIZONS:
        row = {"part": "accuracy", "horizon": horizon, "N": tokens, "H": shape.H, "D": D}
        if watch.over:
            yield row | left_out()
            continue
        each = torch.full((1, shape.H, tokens), log_decay(horizon), device=watch.device)
        leaves = [x.detach().clone().requires_grad_() for x in (inputs.q, inputs.k, inputs.v, each)]
        o = linear_attention(*leaves[:3], decay=leaves[3], causal=True)
        found = torch.autograd.grad(o, leaves, inputs.do)
        want = exact(WAYS["selective"], *leaves, inputs.do, shape, heads)
        got = dict(zip(("o", "dq", "dk", "dv", "ddecay"), (o, *found), strict=True))
        errors = {
            f"{n}_error": relative(x.detach().flatten(0, 1)[heads], want.tensors[n])
            for n, x in got.items()
        }
        yield row | {"status": "ok", "reason": None, **errors}


def relative(got, want) -> float | None:
    """‖got - want‖ / ‖want‖, None where there is nothing to compare with."""
    norm = want.norm()
    return ((got.double() - want).norm() / norm).item() if norm > 1e-12 else None


def left_out() -> dict:
    return {"status": "skipped", "reason": "the time of this study was over", "median_ms": None}


def measure(quick: bool, say, watch: Watch | None = None) -> list[dict]:
    """All parts, what matters most first; one that fails leaves a row that says why."""
    begin = time.monotonic()
    if watch is None:
        dtype = hardware.default_dtype()
        if dtype == torch.float16:
            dtype = torch.float32  # a denominator would pass the range of float16
        name = str(dtype).removeprefix("torch.")
        end = begin + (QUICK_S if quick else FULL_S)
        watch = Watch(DeviceClock(), QUICK if quick else FULL, quick, end, name)
    many, few = watch.batches
    if watch.device == "cuda" and not quick:
        theirs = {"lengths": (watch.tokens,), "orders": (True,), "works": (FORWARD,)}
        precompile.compile_ahead([Plan(("fla-simple-gla",), batches=(many,), **theirs)], say)
    jobs = [(times, many, True), (times, many, False), (lengths, many), (accuracy,)]
    if not watch.quick:
        jobs += [(times, few, True), (times, few, False)]
    rows = []
    for job, *arguments in jobs:
        part = job.__name__.removesuffix("s")
        before = len(rows)
        if watch.over:
            rows.append({"part": part, **left_out()})
        else:
            try:
                rows += job(watch, *arguments)
            except Exception as problem:  # the other parts are still worth having
                rows.append({"part": part, "status": "failed", "reason": one_line(problem)})
                del problem
        gc.collect()
        if watch.device == "cuda":
            torch.cuda.empty_cache()
        what = " ".join(map(str, (job.__name__, *arguments)))
        say(f"{what}: {len(rows) - before} rows, {time.monotonic() - begin:.0f} s")
    return rows
