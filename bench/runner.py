"""The run: for every shape and every contender the gate first, then the race, then the record."""

import contextlib
import gc
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch

from . import contenders, floor, gate, hardware, results, truth, turns
from .errors import BenchError
from .results import Measurement, Record
from .roofline import FORWARD, FORWARD_BACKWARD, WORKS, Shape, ideal_bytes, ideal_flops
from .timing import CLOCKS, FULL, DeviceClock, DeviceLost, Lane, Sampling, answers, race

LENGTHS = tuple(2**i for i in range(9, 17))  # 512 … 65536
QUICK_LENGTHS = LENGTHS[1::2]  # 1K, 4K, 16K, 64K


@dataclass(frozen=True)
class Plan:
    """What to measure: the product of these, short sequences first."""

    contenders: tuple[str, ...] = ("book", "eager", "sdpa-flash", "sdpa-cudnn")
    batches: tuple[int, ...] = (8, 1)
    lengths: tuple[int, ...] = LENGTHS
    heads: int = 8
    head_dim: int = 64
    orders: tuple[bool, ...] = (False, True)  # causal?
    works: tuple[str, ...] = WORKS
    dtype: str = "bfloat16"
    sampling: Sampling = FULL
    experiment: str = results.COMPARISON  # the name under which the record keeps it
    clock: str = "device"  # of timing.CLOCKS

    def shapes(self) -> list[Shape]:
        """All shapes, length by length: an interrupted run has whole rows."""
        return [
            Shape(B, self.heads, N, self.head_dim, self.head_dim, self.dtype, causal)
            for N in self.lengths
            for B in self.batches
            for causal in self.orders
        ]


@dataclass
class Inputs:
    """q, k, v and the gradient of the output, and the truth for what is asked, computed once."""

    shape: Shape
    gradients: bool
    device: str = "cuda"
    truths: dict = field(default_factory=dict)

    def __post_init__(self):
        s = self.shape
        generator = torch.Generator(device=self.device).manual_seed(s.N + s.B)

        def normal(width):
            # in the dtype itself: a float32 copy of the largest input would take gigabytes
            x = torch.empty(s.B, s.H, s.N, width, device=self.device, dtype=getattr(torch, s.dtype))
            return x.normal_(generator=generator)

        self.q, self.k, self.v, self.do = normal(s.D), normal(s.D), normal(s.Dv), normal(s.Dv)

    def given(self, function):
        """q, k, v as a function takes them: with φ applied to q and k where it has no φ."""
        if not function.ready:
            return self.q, self.k, self.v
        return *(torch.nn.functional.elu(x) + 1 for x in (self.q, self.k)), self.v

    def truth(self, function):
        """Float64 results of a function on these inputs."""
        if function not in self.truths:
            do = self.do if self.gradients else None
            self.truths[function] = truth.compute(function, self.shape, *self.given(function), do)
        return self.truths[function]


@dataclass(frozen=True)
class Entry:
    """One contender on one shape and work of a plan: what a run is made of."""

    experiment: str
    contender: str
    work: str
    shape: Shape

    @staticmethod
    def of(m: Measurement) -> "Entry":
        """The entry that a measurement answers."""
        shape = Shape(m.B, m.H, m.N, m.D, m.Dv, m.dtype, m.causal)
        return Entry(m.experiment, m.contender, m.work, shape)


@turns.alone()
def run(
    *plans: Plan,
    clock=None,
    device: str = "cuda",
    command: str = "",
    say: Callable[[str], None] = lambda text: None,
    keep: Callable[[Record], None] = lambda record: None,
    note: Callable[[Entry], None] = lambda entry: None,
    before: Record | None = None,
    refused: dict[Entry, str] | None = None,
    deadline_s: float | None = None,
) -> Record:
    """Measure one plan after another and return the record.

    `say` is told of the progress, `keep` is given the record after each shape, and `note` is told
    of each entry before it is called. Shapes that `before` has in full are taken from there.
    Contenders that lack the order of a shape are left out there. Entries in `refused` fail for the
    reason given, without being called. After `deadline_s` seconds
    no further shape is begun; the record is then not complete.
    Raises BenchError when a contender is unknown or there is no GPU, and DeviceLost when the GPU
    no longer answers this process; what was measured until then has been given to `keep`.
    """
    entrants = {name: contenders.get(name) for plan in plans for name in plan.contenders}
    if device == "cuda" and not hardware.has_gpu():
        raise BenchError(NO_GPU)
    clocks = {plan.clock: clock or CLOCKS[plan.clock]() for plan in plans}
    load = hardware.busy if device == "cuda" else contextlib.nullcontext
    provenance = hardware.provenance(command, load)
    if isinstance(timed := clocks.get("device"), DeviceClock):
        provenance = replace(provenance, null_kernel_ms=timed.null_kernel_ms())
    record = Record(provenance, live=True)
    known = {Entry.of(m): m for m in before.measurements} if before else {}
    rows = [(plan, shape) for plan in plans for shape in plan.shapes()]
    begin = time.monotonic()
    for i, (plan, shape) in enumerate(rows):
        elapsed = time.monotonic() - begin
        here = [entrants[name] for name in plan.contenders]
        here = [c for c in here if shape.causal in c.causal]
        wanted = [Entry(plan.experiment, c.name, work, shape) for work in plan.works for c in here]
        if all(entry in known for entry in wanted):
            record.measurements.extend(known[entry] for entry in wanted)
            continue
        if deadline_s is not None and elapsed > deadline_s:
            say(f"stopped after {elapsed:.0f} s, before {shape}")
            return record
        say(f"[{i + 1}/{len(rows)}] {plan.experiment} {shape} ({elapsed:.0f} s)")
        watch = Watch(plan.experiment, shape, note, refused or {})
        record.measurements.extend(
            _measure_shape(here, shape, plan, device, clocks[plan.clock], say, watch)
        )
        keep(record)
        if device == "cuda" and not answers():
            raise DeviceLost(f"after {shape}")
    done = replace(record, complete=True)
    say(f"{len(done.measurements)} measurements in {time.monotonic() - begin:.0f} s")
    keep(done)
    return done


@dataclass(frozen=True)
class Watch:
    """Tells `note` of every call before it is made, and knows the entries that are not called."""

    experiment: str
    shape: Shape
    note: Callable[[Entry], None] = lambda entry: None
    refused: dict = field(default_factory=dict)

    def entry(self, contender, work: str) -> Entry:
        return Entry(self.experiment, contender.name, work, self.shape)

    def context(self, contender, work: str) -> Callable:
        """The contender's context, which first notes the entry."""
        entry = self.entry(contender, work)

        def enter():
            self.note(entry)
            return contender.context()

        return enter


NO_GPU = (
    "Measuring needs an NVIDIA GPU, and PyTorch sees none here: run this command on a machine with "
    "one (a Colab GPU will do), or show what is recorded with `python -m bench show`."
)


def _measure_shape(
    entrants, shape: Shape, plan: Plan, device, clock, say, watch: Watch
) -> list[Measurement]:
    """All contenders and kinds of work on one shape."""
    try:
        inputs = Inputs(shape, FORWARD_BACKWARD in plan.works, device)
    except torch.OutOfMemoryError as problem:
        say(f"    the inputs do not fit: {one_line(problem)}")
        fact = {"status": "failed", "reason": f"the inputs do not fit: {one_line(problem)}"}
        return [_measurement(plan, c, shape, work, fact) for work in plan.works for c in entrants]
    done = []
    for work in plan.works:
        facts = measure(entrants, inputs, work, clock, plan.sampling, watch)
        clock.forget()
        for contender, fact in zip(entrants, facts, strict=True):
            done.append(_measurement(plan, contender, shape, work, fact))
            if fact["status"] != "ok":
                say(f"    {contender.name}, {work}: {fact['status']}: {fact['reason']}")
    return done


def measure(
    entrants: list, inputs: Inputs, work: str, clock, sampling: Sampling, watch: Watch | None = None
) -> list[dict]:
    """Gate, then race: for each contender the fields of its measurement that were found out."""
    watch = watch or Watch("", inputs.shape)
    facts: list[dict] = []
    lanes: list[Lane | None] = []
    for contender in entrants:
        fact, call = admit(contender, inputs, work, watch)
        facts.append(fact)
        lanes.append(None if call is None else Lane(call, watch.context(contender, work)))
        del call  # a failed one may hold memory

    racing = [lane for lane in lanes if lane is not None]
    if not racing:
        return facts
    copy = Lane(lambda: None)
    try:
        copy.call = floor.copy_call(ideal_bytes(inputs.shape, work), inputs.device)
        race([*racing, copy], clock, sampling)
    except torch.OutOfMemoryError as problem:
        copy.failure = problem
    ours = [x for x, c in zip(lanes, entrants, strict=True) if c.name == "book"]
    again = {} if copy.failure else _steadier(racing, copy, ours, clock, sampling)
    for fact, first in zip(facts, lanes, strict=True):
        if first is None:
            continue
        lane, beside = again.get(id(first), (first, copy))
        if beside.failure is not None:
            fact |= {"status": "failed", "reason": f"its floor: {one_line(beside.failure)}"}
        elif lane.failure is not None:
            fact |= {"status": "failed", "reason": one_line(lane.failure)}
        else:
            fact |= {
                "median_ms": lane.percentile(50),
                "p20_ms": lane.percentile(20),
                "p80_ms": lane.percentile(80),
                "samples": len(lane.device_ms),
                "host_ms": lane.host_median_ms,
                "floor_ms": beside.percentile(50),
                "floor_spread": beside.spread,
            }
            if lane.spread > results.STEADY:
                fact["unsteady"] = True
            if lane is not first:
                fact["raced_again"] = True
            fact |= lane.marks
    return facts


def _steadier(racing: list[Lane], copy: Lane, company: list[Lane], clock, sampling) -> dict:
    """{id of a lane: (the lane that counts, the copy that raced beside it)}.

    Lanes whose samples disagree race once more, in turns with the copy and with `company`, and of
    each the steadier one counts, with the copy of its race. Where the copy was unsteady, everybody
    is given the steadier of the two copies.
    """
    shaky = {id(x) for x in (*racing, copy) if x.failure is None and x.spread > results.STEADY}
    if not shaky:
        return {}
    known = {id(x): x for x in (*racing, copy) if x.failure is None}
    beside = {id(x) for x in (*company, copy)}
    wanted = [i for i in known if i in shaky or i in beside]
    second = {i: Lane(known[i].call, known[i].context) for i in wanted}
    race(list(second.values()), clock, sampling)
    other = second.pop(id(copy))
    if other.failure is not None:
        return {}
    steadier = id(copy) in shaky and other.spread < copy.spread
    found = {id(x): (x, other if steadier else copy) for x in racing}
    for i, new in second.items():
        if i in shaky and new.failure is None and new.spread < known[i].spread:
            found[i] = new, other
    return found


def _measurement(plan: Plan, contender, shape: Shape, work: str, fact: dict) -> Measurement:
    return Measurement(
        experiment=plan.experiment,
        contender=contender.name,
        causal=shape.causal,
        work=work,
        B=shape.B,
        H=shape.H,
        N=shape.N,
        D=shape.D,
        Dv=shape.Dv,
        dtype=shape.dtype,
        bytes=ideal_bytes(shape, work),
        flops=ideal_flops(shape, work, contender.function.family),
        **fact,
    )


def admit(contender, inputs: Inputs, work: str, watch: Watch) -> tuple[dict, Callable | None]:
    """Let a contender through the gate: (what is known of it, the call to time or None).

    Raises DeviceLost when the device answers no more after its call.
    """
    shape = inputs.shape
    reason = watch.refused.get(watch.entry(contender, work))
    if reason is not None:
        return {"status": "failed", "reason": reason}, None
    missing = contender.available()
    if missing is not None:
        return {
            "status": "not_installed",
            "reason": f"{missing}; to install: {contender.install}",
        }, None
    refusal = contender.refusal(shape)
    if refusal is not None:
        return {"status": "failed", "reason": refusal}, None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            watch.note(watch.entry(contender, work))
            call, outputs = prepare(contender, inputs, work)
            gate.poison(list(_expected(inputs, work)))
            synchronize(inputs.device)
            begin = time.perf_counter()
            with watch.context(contender, work)():
                result = call()
                synchronize(inputs.device)
            first_call_ms = (time.perf_counter() - begin) * 1e3
            verdict = gate.judge(outputs(result), inputs.truth(contender.function), shape.dtype)
        except Exception as problem:
            fact = {"status": "failed", "reason": one_line(problem, said)}
            del problem
            free(inputs.device)
            if inputs.device == "cuda" and not answers():
                raise DeviceLost(fact["reason"]) from None
            return fact, None
    fact = {
        "status": "ok" if verdict.ok else "wrong",
        "reason": verdict.reason,
        "error": verdict.error,
        "verified": verdict.verified,
        "first_call_ms": first_call_ms,
    }
    return fact, call if verdict.ok else None


def prepare(contender, inputs: Inputs, work: str) -> tuple[Callable, Callable]:
    """(the call to time, a function that names its results for the gate).

    What the contender needs beside the inputs is made here and not timed: its layout, φ where it
    has none, and what its `prepare` returns.
    Forward runs without autograd. Forward + backward asks for the gradients of q, k and v and
    accumulates them nowhere.
    """
    q, k, v = (contender.view(x) for x in inputs.given(contender.function))
    do = None if work == FORWARD else contender.view(inputs.do)
    names = ("o",) if work == FORWARD else ("o", "dq", "dk", "dv")

    def named(result):
        """Its results as [B, H, N, ·]; what is not a tensor of four axes is left to the gate."""
        result = (result,) if work == FORWARD else result
        turn = contender.layout != "BHND"
        result = (x.transpose(1, 2) if turn and x.ndim == 4 else x for x in result)
        return dict(zip(names, result, strict=True))

    return call_of(contender, q, k, v, do, inputs.shape.causal), named


def call_of(contender, q, k, v, do, causal: bool) -> Callable:
    """The call on tensors in the contender's layout; with `do` forward and backward."""
    more = contender.prepare(q, k, v)
    if do is None:

        def call():
            with torch.no_grad():
                return contender.forward(q, k, v, causal=causal, **more)

        return call

    q, k, v = (x.detach().requires_grad_() for x in (q, k, v))

    def call():
        o = contender.forward(q, k, v, causal=causal, **more)
        return o.detach(), *torch.autograd.grad(o, (q, k, v), do)

    return call


def _expected(inputs: Inputs, work: str):
    """Tensors of the sizes which a call will ask for."""
    yield inputs.v
    if work == FORWARD_BACKWARD:
        yield from (inputs.q, inputs.k, inputs.v)


def one_line(problem: BaseException, said=()) -> str:
    """An exception in one line of at most 240 characters, with the last warning before it."""
    text = " ".join(str(problem).split()) or "no message"
    if "out of memory" in text:
        text = text.split(". Of the allocated memory")[0].split(" If reserved")[0]
    text = f"{type(problem).__name__}: {text}"
    hints = [" ".join(str(w.message).split()) for w in said]
    if hints and "No available kernel" in text:
        text += f" ({hints[-1]})"
    return text if len(text) <= 240 else text[:239] + "…"


def columns(lane: Lane) -> dict:
    """Time and spread of a lane as the columns of a study's row, or why it has none."""
    if lane.failure is not None or not lane.device_ms:
        reason = one_line(lane.failure or RuntimeError("no sample"))
        return {"status": "failed", "reason": reason, "median_ms": None}
    return {
        "status": "ok",
        "reason": None,
        "median_ms": lane.percentile(50),
        "spread": lane.spread,
        "samples": len(lane.device_ms),
        "host_ms": lane.host_median_ms,
        **lane.marks,
    }


def times(calls: dict, clock, sampling: Sampling, context: Callable = nullcontext) -> dict:
    """Race some calls by name, each within `context`; for each of them the columns of a row."""
    lanes = {name: Lane(call, context) for name, call in calls.items()}
    race(list(lanes.values()), clock, sampling)
    return {name: columns(lane) for name, lane in lanes.items()}


def synchronize(device: str):
    if device == "cuda":
        torch.cuda.synchronize()


def free(device: str):
    """Give back what a failed contender held."""
    gc.collect()
    if device == "cuda":
        with contextlib.suppress(RuntimeError):  # if it no longer answers, the caller finds out
            torch.cuda.empty_cache()
