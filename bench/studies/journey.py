"""The ladder of the chapter "Optimization journey": every step's time, passes and compiled code.

Rows are told apart by the column `part`:

- `step`: a step at one shape; `floor_ms` is a copy of the bytes that any method has to move. A slow
  step runs at fewer rows, `measured_N`, and `median_ms` is its time times N / measured_N
- `copy`: that copy, and one of half the bytes, for comparison with one of the two passes
- `pass`: the kernels of a step, one by one, from torch.profiler
- `code`: registers, memory and instructions of a step's kernels, and a hash of the instructions
- `text`: machine code of these kernels, a line of each kind
- `waves`: the state pass alone, over the number of parts
- `failed`: a part that did not come to its end, and why
"""

import hashlib
import math
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import torch

from kernels import launch
from kernels.steps.journey import STEPS, named, passes

from .. import (
    compiled,
    floor,
    gate,
    hardware,
    occupancy,
    profiling,
    roofline,
    runner,
    timing,
    truth,
)
from ..runner import one_line
from . import in_parts
from .triton_basics import old

ABOUT = "the optimization ladder: each step's time beside a copy, its passes, its compiled code"
KIND = "part"
COLUMNS = {
    "copy": "bytes B H N D dtype status reason | median_ms spread",
    "step": (
        "step bytes B H N D dtype status reason median_ms? floor_ms? measured_N scaled | error "
        "median_ms floor_ms"
    ),
    "code": "step pass? reason | num_warps registers local_bytes shared_bytes",
    "text": "step pass text",
    "pass": "step B H N kernel? ms? reason | kernel ms launches share",
    "waves": "B H N parts programs tiles bytes status reason | median_ms spread",
}

FULL = timing.Sampling(least=5, most=60, budget_s=0.12, warm_up=2)
QUICK = timing.Sampling(least=3, most=12, budget_s=0.02, warm_up=1)
FULL_S, QUICK_S = 56.0, 13.0  # after these seconds no further measurement is begun
N, H, D = 65536, 8, 64
BATCHES = (8, 1)
SLOW = {"python-loop": 512}  # rows that a step is measured at, if not N
HOST = ("python-loop",)  # timed by the host's clock: what it waits for is Python
WAVES = {
    8: (1, 2, 3, 4, 5, 6, 8, 9, 12, 16, 32),
    1: (4, 8, 12, 16, 20, 24, 28, 32, 33, 34, 36, 40, 48, 56, 64, 66, 67, 72, 80, 99, 100, 128),
}
LINES = r"FFMA|HGMMA\.\S*|MUFU\.\S*|LDGSTS\S*|LDG\.\S*|STG\.\S*|LDL\S*|STL\S*"
LINES += r"|LDSM\S*|LDS\S*|STS\S*|SHFL\S*|\bBAR\.\S*|WARPGROUP\.\S*"
CLASSES = ("tensor cores", "special functions", "floating point", "conversion", "shared memory")
CLASSES += ("asynchronous copy", "global memory", "local memory", "integers and addresses")
CLASSES += ("moves", "synchronization")


@dataclass
class Watch:
    """What all parts share: the clock, how many samples, how long, and the size of the inputs."""

    clock: object
    sampling: timing.Sampling
    quick: bool
    end: float
    device: str = "cuda"
    dtype: torch.dtype = torch.bfloat16
    N: int = N
    H: int = H
    batches: tuple = BATCHES

    @property
    def over(self) -> bool:
        return time.monotonic() > self.end

    def inputs(self, B: int, rows: int | None = None):
        """q, k, v [B, H, rows, D], random but the same every time."""
        torch.manual_seed(0)
        shape = (B, self.H, rows or self.N, D)
        return [torch.randn(shape, device=self.device, dtype=self.dtype) for _ in range(3)]

    def race(self, calls: dict[str, Callable]) -> dict[str, dict]:
        """Time the calls in turns; for each of them the columns of a row."""
        return runner.times(calls, self.clock, self.sampling)

    @property
    def type(self) -> str:
        return str(self.dtype).removeprefix("torch.")


def measure(quick: bool, say: Callable[[str], None]) -> list[dict]:
    """All parts, each of which may fail without the others."""
    begin = time.monotonic()
    end = begin + (QUICK_S if quick else FULL_S)
    watch = Watch(timing.DeviceClock(), QUICK if quick else FULL, quick, end)
    if old():  # no bfloat16, and no tensor cores for Triton
        watch.dtype, watch.N, watch.batches = torch.float32, N // 8, BATCHES[1:]
    compile_all(watch)
    say(f"compiled, {time.monotonic() - begin:.0f} s")
    return in_parts(PARTS, watch, say, begin)


def compile_all(watch) -> None:
    """Run every step once on little, several at a time: most of the time goes into compiling.

    What fails fails again where it is measured, and is recorded there.
    """
    small = watch.inputs(1, 1024)
    calls = [partial(step.forward, *small) for step in STEPS[2:-1]]  # that have kernels
    # a short call of the library takes another kernel, and parts make another form of this one
    calls += [partial(STEPS[-1].forward, *watch.inputs(B)) for B in watch.batches]
    compiled.at_once(calls)


# ---------------------------------------------------------------------------------------- the steps


def call_of(step, q, k, v, out):
    """A call of a step; the library has no argument for the result."""
    if step.name == "library":
        return lambda: step.forward(q, k, v)
    return lambda: step.forward(q, k, v, out)


def refused(step, watch, q, k, v, out, answer) -> tuple[str | None, dict]:
    """(status or None if it is right, columns) of a step that is run once and compared."""
    out.fill_(float("nan"))
    gate.poison([out])
    try:
        result = call_of(step, q, k, v, out)()
        if watch.device == "cuda":
            torch.cuda.synchronize()
    except Exception as problem:
        return "failed", {"reason": one_line(problem), "error": None}
    verdict = gate.judge({"o": result}, answer, watch.type)
    return None if verdict.ok else "wrong", {"reason": verdict.reason, "error": verdict.error}


def steps(watch: Watch):
    """Every step, compared with float64 and then timed beside a copy, at every batch size."""
    for B in watch.batches:
        at = {"B": B, "H": watch.H, "N": watch.N, "D": D, "dtype": watch.type}
        shape = roofline.Shape(B, watch.H, watch.N, D, D, watch.type)
        moved = roofline.ideal_bytes(shape, roofline.FORWARD)
        calls, facts, late = {}, {}, {}
        large = watch.inputs(B)
        answer = truth.compute(truth.LINEAR, shape, *large)
        out = torch.empty_like(large[2])
        for step in STEPS:
            rows = min(SLOW.get(step.name, watch.N), watch.N)
            if rows == watch.N:
                given, want = (*large, out), answer
            else:
                little = watch.inputs(B, rows)
                given = (*little, torch.empty_like(little[2]))
                cut = roofline.Shape(B, watch.H, rows, D, D, watch.type)
                want = truth.compute(truth.LINEAR, cut, *little)
            status, fact = refused(step, watch, *given, want)
            facts[step.name] = {"status": status or "ok", "measured_N": rows, **fact}
            if status is None:
                chosen = late if step.name in HOST else calls
                chosen[step.name] = call_of(step, *given)
        found = watch.race(
            {
                **calls,
                "copy": floor.copy_call(moved, watch.device),
                "half": floor.copy_call(moved // 2, watch.device),
            }
        )
        found |= {name: by_host(call, watch) for name, call in late.items()}
        least = found["copy"].get("median_ms")
        for name, nbytes in (("copy", moved), ("half", moved // 2)):
            yield {"part": "copy", "bytes": nbytes, **at, **found[name]}
        for step in STEPS:
            row = {"part": "step", "step": step.name, "bytes": moved, **at}
            row |= {"median_ms": None, **found.get(step.name, {}), "floor_ms": least}
            fact = facts[step.name]
            if fact["status"] == "ok" and row.get("status") == "failed":
                fact = {**fact, "status": "failed", "reason": row["reason"]}
            row |= fact
            row["scaled"] = fact["measured_N"] != watch.N
            if row["median_ms"]:
                row["median_ms"] *= watch.N / fact["measured_N"]
            yield row


def by_host(call, watch) -> dict:
    """The columns of a call that is timed by the host's clock, from an idle GPU to an idle one."""
    taken = []
    for _ in range(1 if watch.quick else 3):
        begin = time.perf_counter()
        call()
        if watch.device == "cuda":
            torch.cuda.synchronize()
        taken.append(1e3 * (time.perf_counter() - begin))
    ms = sorted(taken)[len(taken) // 2]
    spread = max(taken) / max(min(taken), 1e-6)
    return {"status": "ok", "reason": None, "median_ms": ms, "spread": spread, "host_ms": ms}


# ------------------------------------------------------------------------------ passes, code, waves


def kernel_rows(watch: Watch):
    """The kernels of each step, one by one."""
    for B in watch.batches:
        q, k, v = watch.inputs(B)
        out = torch.empty_like(v)
        for step in STEPS:
            if step.name in SLOW or watch.over:
                continue
            if watch.quick and B != watch.batches[0] and step.name != "rows":
                continue  # of the other shapes the page asks for this step alone
            at = {"part": "pass", "step": step.name, "B": B, "H": watch.H, "N": watch.N}
            try:
                found = profiling.kernel_times(call_of(step, q, k, v, out), 2 if watch.quick else 5)
            except Exception as problem:
                yield {**at, "kernel": None, "ms": None, "reason": one_line(problem)}
                continue
            yield from ({**at, **row, "reason": None} for row in found)


def code(watch: Watch):
    """Size and instructions of the kernels of each step, as they were launched."""
    small = watch.inputs(1, min(watch.N, 1024))
    found = []
    for step in STEPS:
        given = small
        if step.name == "library":  # a short call takes another kernel
            given = watch.inputs(watch.batches[0])
            launch.forget()  # what is replayed is not launched by Triton, and is not seen
        with ExitStack() as stack:
            ran = [(name, stack.enter_context(compiled.caught(f))) for name, f in step.kernels]
            try:
                step.forward(*given)
            except Exception as problem:
                reason = one_line(problem)
                yield {"part": "code", "step": step.name, "pass": None, "reason": reason}
        found += [(step, name, launched[0]) for name, launched in ran if launched]
    with ThreadPoolExecutor(compiled.THREADS) as pool:  # each waits for a program of NVIDIA's
        facts = pool.map(lambda one: facts_of(one[2]), found)
        for (step, name, _), (row, text) in zip(found, facts, strict=True):
            at = {"step": step.name, "pass": name}
            yield {"part": "code", **at, "rows": rows_of(step, name, watch), **row}
            if text:
                yield {"part": "text", **at, "text": text}


def rows_of(step, which: str, watch) -> int | None:
    """Rows of a tile of one of the two passes of a step; None of a kernel that is no pass."""
    if step.name == "library":
        settings = passes.of_library(watch.dtype, torch.device(watch.device))
    else:
        settings = step.settings
    return None if settings is None else getattr(settings, which).rows


def facts_of(kernel) -> tuple[dict, str]:
    """Registers, memory, programs to a multiprocessor and instructions of a launched kernel.

    And its machine code, a line of each kind; empty where nothing disassembles it.
    """
    text = ""
    found = compiled.describe(kernel, sass=False)
    row = {
        "reason": None,
        "num_warps": found.num_warps,
        "registers": found.registers,
        "local_bytes": found.local,
        "shared_bytes": found.shared,
        "resident": resident(found),
    }
    cubin = kernel.asm.get("cubin")
    sass = profiling.disassemble(cubin) if cubin else None
    if sass:
        lines = profiling.LINE.findall(sass)
        bare = "\n".join(" ".join(line[1:]) for line in lines)
        mix = profiling.instructions(sass)
        row |= {"hash": hashlib.sha256(bare.encode()).hexdigest()[:12]}
        row |= {"instructions": mix["all"].total(), "loop": mix["loop"].total()}
        row |= {f"all: {kind}": mix["all"][kind] for kind in CLASSES}
        row |= {f"loop: {kind}": mix["loop"][kind] for kind in CLASSES}
        whole = "\n".join(re.findall(r"/\*[0-9a-f]{4,}\*/[^;]*;", sass))
        text = replace(found, stages={"sass": whole}).excerpt("sass", LINES, 1)
    return row, text


def resident(found) -> int | None:
    """Programs that a multiprocessor of this GPU holds; None where its limits are not known."""
    if not hardware.has_gpu() or found.registers is None:
        return None
    major, minor = torch.cuda.get_device_capability()
    limits = occupancy.LIMITS.get(f"{major}.{minor}")
    if limits is None:
        return None
    each = occupancy.resident(limits, found.num_warps, found.registers, found.shared)
    return min(each.values())


def waves(watch: Watch):
    """The state pass alone, over the number of parts."""
    wide = named("wide")
    kernel = dict(wide.kernels)["state"]
    tile = wide.settings.state
    for B in watch.batches:
        _, k, v = watch.inputs(B)
        most = max(1, watch.N // tile.rows)
        counts = [many for many in WAVES[B] if many <= most]
        counts = counts[:: 2 if watch.quick else 1]
        calls = {
            many: partial(passes.partial_states, kernel, k, v, tile, many=many) for many in counts
        }
        for many, row in watch.race(calls).items():
            longest = passes.share(watch.N, many, tile.rows)
            yield {"part": "waves", "B": B, "H": watch.H, "N": watch.N, "parts": many,
                   "programs": B * watch.H * math.ceil(watch.N / longest),
                   "tiles": longest // tile.rows, "bytes": k.nbytes + v.nbytes, **row}  # fmt: skip


PARTS = (steps, code, waves, kernel_rows)
