"""The ladder of causal linear attention: steps, chunks, segments, links of a chain, and its order.

Rows are told apart by the column `part`:

- `step`: each step of kernels/steps/causal and the library, after the gate; `floor_ms` is a copy of
  q, k, v and o
- `compiled`: registers, shared memory and the instructions of one turn of the loop of each kernel
- `chunk`: tokens of a chunk in the step `segmented`
- `segments`: into how many segments that step cuts a head
- `link`: tokens of a segment in the step `chained`
- `order`: a chain of programs numbered in three ways; how many waited in vain, how many started
  out of order, and how long a link takes
- `bits`: how many of several runs differ from the first one
- `cumulative`: time and peak memory of the sums in PyTorch
- `counters`: what the profiler counts of each kernel, where it is there
- `failed`: a part that did not come to its end, and why
"""

import gc
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

import torch

from kernels import linear_attention
from kernels.steps.causal import STEPS, atomics, chained, cumulative, order, segmented
from kernels.steps.causal import __name__ as LADDER

from .. import compiled, floor, fresh, gate, hardware, profiling, roofline, runner, timing, truth

ABOUT = "causal steps, chunks, segments and chains: times beside floors, registers, instructions"
RACED = "B H N D bytes status reason median_ms? floor_ms? | error median_ms floor_ms spread"
KIND = "part"
COLUMNS = {
    "compiled": "step kernel num_warps registers local shared",
    "step": f"step dtype {RACED}",
    "segments": f"segments {RACED}",
    "link": f"segment {RACED}",
    "chunk": f"chunk num_warps {RACED}",
    "order": "numbering programs gave_up out_of_order link_us?",
    "bits": "step B runs differ values of",
    "cumulative": "B H N D status reason | peak_MiB median_ms",
    "counters": "status reason | step B H N D kernel read_bytes written_bytes",
}

FULL = timing.Sampling(least=5, most=30, budget_s=0.06, warm_up=2)
QUICK = timing.Sampling(least=3, most=10, budget_s=0.03, warm_up=1)
FULL_S, QUICK_S = 54.0, 12.0  # after these seconds no further measurement is begun
H, N, D = 8, 65536, 64
BATCHES = (8, 1)
QUICK_CHUNKS = ((64, 4), (128, 8))
CHUNKS = ((64, 4), (128, 8), (64, 8), (128, 4), (256, 8))  # (tokens of a chunk, num_warps)
NARROW = ((32, 4), (16, 4))  # apart, in a process that may be lost
SEGMENTS = {8: (1, 2, 4, 8, 16, 32, 64), 1: (1, 4, 16, 32, 64, 128, 256)}
LINKS = (64, 128, 256, 512, 1024, 2048, 4096)
QUICK_LINKS = (128, 256, 1024)
PATIENCE = 100_000  # looks at the program before, after which a program gives up


def step_functions() -> dict[str, tuple[Callable, truth.Function]]:
    """name -> (q, k, v -> o, what it computes) of each step and of the library."""
    found = {
        s.name: (s.forward, truth.Function("linear", s.feature_map, s.normalize)) for s in STEPS
    }
    found["library"] = (lambda q, k, v: linear_attention(q, k, v, causal=True), truth.LINEAR)
    return found


@dataclass
class Watch:
    """What all parts share: the clock, how many samples, how long, and the inputs."""

    clock: object
    sampling: timing.Sampling
    quick: bool
    end: float
    device: str = "cuda"
    tokens: int = N  # fewer only where a test runs this without a GPU
    dtype: str = "bfloat16"
    batches: tuple = BATCHES
    inputs: dict = field(default_factory=dict)
    truths: dict = field(default_factory=dict)

    @property
    def over(self) -> bool:
        return time.monotonic() > self.end

    def shapes(self):
        """The batches of the shapes, as long as there is time."""
        yield from (B for B in self.batches if not self.over)

    def shape(self, B: int) -> roofline.Shape:
        return roofline.Shape(B, H, self.tokens, D, D, self.dtype, causal=True)

    def qkv(self, B: int):
        """q, k, v of a shape; those of the other one are let go."""
        if B not in self.inputs:
            self.inputs.clear(), self.truths.clear()
            generator = torch.Generator(self.device).manual_seed(B)
            size, dtype = (B, H, self.tokens, D), getattr(torch, self.dtype)
            self.inputs[B] = tuple(
                torch.randn(size, generator=generator, device=self.device).to(dtype) for _ in "qkv"
            )
        return self.inputs[B]

    def judged(self, call: Callable, B: int, function=truth.LINEAR) -> dict:
        """Status, reason and error of one call, against float64."""
        q, k, v = self.qkv(B)
        if function not in self.truths:
            self.truths[function] = truth.compute(function, self.shape(B), q, k, v)
        try:
            gate.poison([v])
            with torch.no_grad():
                o = call(q, k, v)
        except Exception as problem:  # too little memory, or too much shared memory
            reason = runner.one_line(problem)
            del problem
            return {"status": "failed", "reason": reason, "error": None}
        verdict = gate.judge({"o": o}, self.truths[function], self.dtype)
        status = "ok" if verdict.ok else "wrong"
        return {"status": status, "reason": verdict.reason, "error": verdict.error}

    def raced(self, calls: dict, B: int) -> list[tuple]:
        """(key, row) of each call after the gate, timed in turns beside a copy.

        `calls` maps a key to (q, k, v -> o) or to that and the function it computes.
        """
        q, k, v = self.qkv(B)
        moved = roofline.ideal_bytes(self.shape(B), roofline.FORWARD)
        rows, lanes = {}, {}
        for key, call in calls.items():
            call = call if isinstance(call, tuple) else (call,)
            rows[key] = {"B": B, "H": H, "N": self.tokens, "D": D, "bytes": moved}
            rows[key] |= self.judged(call[0], B, *call[1:])
            if rows[key]["status"] == "ok":
                lanes[key] = timing.Lane(torch.no_grad()(lambda run=call[0]: run(q, k, v)))
        copy = timing.Lane(floor.copy_call(moved, self.device))
        timing.race([*lanes.values(), copy], self.clock, self.sampling)
        for key, row in rows.items():
            row |= runner.columns(lanes[key]) if key in lanes else {"median_ms": None}
            row["floor_ms"] = runner.columns(copy)["median_ms"]
        return list(rows.items())


def measure(quick: bool, say: Callable[[str], None]) -> list[dict]:
    """All parts, each of which may fail without the others."""
    begin = time.monotonic()
    end = begin + (QUICK_S if quick else FULL_S)
    dtype = hardware.default_dtype()
    if dtype == torch.float16:
        dtype = torch.float32  # the denominator would pass the range of float16
    name = str(dtype).removeprefix("torch.")
    watch = Watch(timing.DeviceClock(), QUICK if quick else FULL, quick, end, dtype=name)
    rows = []
    for part in PARTS:
        before = len(rows)
        try:
            rows += part(watch)
        except Exception as problem:  # the other parts are still worth having
            rows.append(failed(part.__name__, runner.one_line(problem)))
        gc.collect()
        torch.cuda.empty_cache()
        say(f"{part.__name__}: {len(rows) - before} rows, {time.monotonic() - begin:.0f} s")
        if watch.over and part is not PARTS[-1]:
            say("out of time, the rest is left out")
            rows.append(failed("rest", f"what comes after {part.__name__} was left out for time"))
            break
    return rows


def failed(which: str, reason: str) -> dict:
    return {"part": "failed", "which": which, "reason": reason}


# ------------------------------------------------------------------------------------- the ladder


def steps(watch: Watch):
    """Each step and the library at both shapes, and the compiled form of each kernel."""
    functions = step_functions()
    if watch.quick and watch.device == "cuda":
        given = watch.qkv(watch.batches[0])
        ways = [functions[name][0] for name in (*(s.name for s in STEPS if s.kernels), "library")]
        ways += [partial(segmented.forward, chunk=c, num_warps=w) for c, w in QUICK_CHUNKS]
        ways += [partial(chained.forward, segment=n) for n in QUICK_LINKS]
        chains = [partial(order.chain, 64, n, watch.device, PATIENCE) for n in order.NUMBERINGS]
        compiled.at_once([*(partial(way, *given) for way in ways), *chains])
    with ExitStack() as stack:
        ran = {
            (step.name, kernel): stack.enter_context(compiled.caught(getattr(module, kernel)))
            for step in STEPS
            for module, kernel in step.kernels
        }
        for name in dict.fromkeys(name for name, _ in ran):
            call, function = functions[name]
            watch.judged(call, watch.batches[0], function)
    ran = {key: launched[0] for key, launched in ran.items() if launched}
    with ThreadPoolExecutor(compiled.THREADS) as pool:  # each waits for programs of NVIDIA's
        for (step, kernel), found in zip(ran, pool.map(facts, ran.values()), strict=True):
            yield {"part": "compiled", "step": step, "kernel": kernel, **found}
    for B in watch.shapes():
        for key, row in watch.raced(functions, B):
            yield {"part": "step", "step": key, "dtype": watch.dtype, **row}


def facts(kernel, loop: bool = True) -> dict:
    """Registers, memory and the instructions of one turn of the main loop of a compiled kernel."""
    found = compiled.describe(kernel, sass=False)
    row = {
        "num_warps": found.num_warps,
        "registers": found.registers,
        "local": found.local,
        "shared": found.shared,
    }
    cubin = getattr(kernel, "asm", {}).get("cubin")
    sass = profiling.disassemble(cubin) if loop and cubin else None
    if sass:
        mix = profiling.instructions(sass)["loop"]
        row["loop"] = mix.total()
        row |= {f"loop: {kind}": n for kind, n in sorted(mix.items())}
    return row


def chunk_rows(watch: Watch, B: int, wanted):
    """The step `segmented` with other chunks; a row for each (tokens, num_warps)."""
    calls, found = {}, {}
    for chunk, warps in wanted:

        def call(q, k, v, chunk=chunk, warps=warps):
            return segmented.forward(q, k, v, chunk=chunk, num_warps=warps)

        with compiled.caught(segmented.segment_kernel) as launched:
            watch.judged(call, B)
        found[chunk, warps] = facts(launched[0]) if launched else {}
        calls[chunk, warps] = call
    for (chunk, warps), row in watch.raced(calls, B):
        yield {"part": "chunk", "chunk": chunk, "num_warps": warps, **found[chunk, warps], **row}


def chunks(watch: Watch):
    """Chunks that are as wide as a tensor core's tile, or wider."""
    for B in watch.shapes():
        yield from chunk_rows(watch, B, QUICK_CHUNKS if watch.quick else CHUNKS)


def narrow_chunks(watch: Watch):
    """Narrower chunks, in a process of their own: narrow tiles have ended processes before."""
    if watch.quick or watch.device == "cpu":
        yield failed("narrow_chunks", "left out of the quick form")
        return
    found = fresh.call("bench.studies.causal", "narrow", {"dtype": watch.dtype}, 40.0)
    yield from found.get("rows") or [failed("narrow_chunks", found.get("failed", "no rows"))]


def narrow(dtype: str) -> dict:
    """{"rows": [...]}: for a process of its own."""
    end = time.monotonic() + 30
    watch = Watch(timing.DeviceClock(), FULL, False, end, dtype=dtype)
    return {"rows": [row for B in BATCHES for row in chunk_rows(watch, B, NARROW)]}


def segment_counts(watch: Watch):
    """Into how many segments a head is cut."""
    for B in watch.shapes():
        counts = SEGMENTS[B][1::2] if watch.quick else SEGMENTS[B]
        calls = {
            s: lambda q, k, v, s=s: segmented.forward(q, k, v, segments=s)
            for s in counts
            if s <= watch.tokens // 64
        }
        for count, row in watch.raced(calls, B):
            yield {"part": "segments", "segments": count, **row}


def links(watch: Watch):
    """The tokens of a segment of the chain."""
    for B in watch.shapes():
        lengths = QUICK_LINKS if watch.quick else LINKS
        calls = {
            n: lambda q, k, v, n=n: chained.forward(q, k, v, segment=n)
            for n in lengths
            if n <= watch.tokens
        }
        for length, row in watch.raced(calls, B):
            yield {"part": "link", "segment": length, **row}


# --------------------------------------------------------------------------- order, bits and memory


def orders(watch: Watch):
    """A chain of programs that all fit on the GPU, and one that does not."""
    for programs in (64, 8192) if watch.device == "cuda" else (4, 8):
        for numbering in order.NUMBERINGS:
            patience = PATIENCE if watch.device == "cuda" else 10
            vain, late = [], []
            for _ in range(3):
                started, gave_up = order.chain(programs, numbering, watch.device, patience)
                place = torch.arange(programs, device=watch.device)
                vain.append(int(gave_up.sum()))
                late.append(int((started != place).sum()))
            row = {"part": "order", "numbering": numbering, "programs": programs}
            row |= {"gave_up": max(vain), "out_of_order": max(late), "link_us": None}
            if numbering == "ticket":

                def call(programs=programs, patience=patience):
                    order.chain(programs, "ticket", watch.device, patience)

                lane = timing.Lane(call)
                timing.race([lane], watch.clock, watch.sampling)
                row["link_us"] = lane.percentile(50) * 1e3 / programs if lane.device_ms else None
            yield row


def bits(watch: Watch):
    """How many of several runs differ from the first, and in how many values."""
    ways = {
        "segmented": segmented.forward,
        "atomics": atomics.forward,
        "chained": chained.forward,
        "library": step_functions()["library"][0],
    }
    B, runs = watch.batches[-1], 5 if watch.quick else 20
    for name, call in ways.items():
        inputs = watch.qkv(B)
        first = call(*inputs)
        others = [(call(*inputs) != first).sum().item() for _ in range(runs - 1)]
        differing = sum(n > 0 for n in others)
        yield {"part": "bits", "step": name, "B": B, "runs": runs, "differ": differing,
               "values": max(others), "of": first.numel()}  # fmt: skip


def cumulatives(watch: Watch):
    """The cumulative sums in PyTorch over N: time and the most memory held at a time."""
    lengths = [n for n in (4096, 8192, 16384, 32768, 65536) if n <= watch.tokens] or [watch.tokens]
    if watch.quick:
        lengths = lengths[::2]
    for n in lengths:
        if watch.over:
            return
        q, k, v = (x[:1, :, :n].contiguous() for x in watch.qkv(watch.batches[-1]))
        row = {"part": "cumulative", "B": 1, "H": H, "N": n, "D": D}
        try:
            peak = None
            if watch.device == "cuda":
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            with torch.no_grad():
                cumulative.forward(q, k, v)
            if watch.device == "cuda":
                torch.cuda.synchronize()
                peak = (torch.cuda.max_memory_allocated() - before) / 2**20
            lane = timing.Lane(torch.no_grad()(lambda q=q, k=k, v=v: cumulative.forward(q, k, v)))
            timing.race([lane], watch.clock, watch.sampling)
            yield {**row, "status": "ok", "reason": None, "peak_MiB": peak, **runner.columns(lane)}
        except Exception as problem:
            yield {**row, "status": "failed", "reason": runner.one_line(problem)}
        gc.collect()


# ------------------------------------------------------------------------------ hardware counters

# what is counted: a mark before each says where it begins
COUNTED = (
    *((name, {}) for name in ("recurrent", "chunked", "normalized", "segmented", "chained")),
    *(("chained", {"segment": n}) for n in (128, 2048)),
    ("library", {}),
)
MARK = "spin"  # part of the name of the kernel behind torch.cuda._sleep


def once(contender: str, work: str, **shape) -> dict:
    """Each of COUNTED after a call that compiled it: what ncu looks at, in a process of its own."""
    shape = roofline.Shape(**shape)
    watch = Watch(None, FULL, False, 0.0, tokens=shape.N, dtype=shape.dtype)
    q, k, v = watch.qkv(shape.B)
    functions = step_functions()
    with torch.no_grad():
        for name, options in COUNTED:
            functions[name][0](q, k, v, **options)
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStart()
        for name, options in COUNTED:
            torch.cuda._sleep(1)
            functions[name][0](q, k, v, **options)
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStop()
    return {}


def counters(watch: Watch):
    """What the profiler counts of each kernel of COUNTED, at the first shape."""
    if watch.quick or watch.device == "cpu":
        yield failed("counters", "left out of the quick form")
        return
    watch.inputs.clear(), watch.truths.clear()
    torch.cuda.empty_cache()
    shape = watch.shape(watch.batches[0])
    rows = profiling.counters(shape, roofline.FORWARD, LADDER, 60.0, module=__name__)
    yield from labelled(rows)


def labelled(rows: list[dict]) -> list[dict]:
    """Rows of the profiler with the step they belong to, without the marks between them."""
    at, found = -1, []
    for row in rows:
        row = {**row, "part": "counters"}
        if row.get("status") != "ok":
            found.append({"part": "counters", **{k: row[k] for k in ("status", "reason")}})
        elif MARK in row["kernel"]:
            at += 1
        elif at >= 0 and "::" not in row["kernel"]:  # not one of PyTorch's
            name, options = COUNTED[at]
            keep = {k: v for k, v in row.items() if k not in ("kind", "contender", "work")}
            found.append({**keep, "step": name, "segment": options.get("segment")})
    if rows and not found:
        names = ", ".join(dict.fromkeys(row["kernel"] for row in rows))
        found = [failed("counters", f"no kernel of a step after a {MARK!r} among: {names}")]
    return found


# what takes little and decides much comes first: the quick form may end before the last ones
PARTS = (
    steps, orders, bits, cumulatives, links, segment_counts, chunks, narrow_chunks, counters
)  # fmt: skip
