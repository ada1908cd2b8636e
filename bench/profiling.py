"""Where the time goes: kernels one by one, ceilings of this GPU, registers, instructions.

Ceilings are measured, not read in a data sheet: a copy of memory, and a product of matrices.
Instruction counts are static: how often an instruction stands in the code, not how often it runs.
Those of the main loop are what one turn of it issues.
"""

import csv
import io
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import asdict

import torch

from . import compiled, contenders, fresh, runner
from .roofline import FORWARD, FORWARD_BACKWARD, Shape, ideal_bytes, ideal_flops
from .timing import DeviceClock, Lane, Sampling, race

CASES = (
    (Shape(8, 8, 65536), FORWARD),
    (Shape(8, 8, 65536, causal=True), FORWARD),
    (Shape(8, 8, 65536), FORWARD_BACKWARD),
    (Shape(8, 8, 65536, causal=True), FORWARD_BACKWARD),
    (Shape(1, 8, 65536), FORWARD),
    (Shape(1, 8, 65536, causal=True), FORWARD),
    (Shape(4, 16, 16384, 128, 128), FORWARD),
    (Shape(4, 16, 16384, 128, 128, causal=True), FORWARD),
)
REPEATS = 10  # calls under the profiler
SAMPLING = Sampling(least=9, most=50, budget_s=0.3)

# ----- instructions -----------------------------------------------------------------------------

# The first part of a SASS opcode → its class. What is not here begins with U (arithmetic of a whole
# warp at once) or counts as "other".
SASS = {
    "tensor cores": "HGMMA HMMA IGMMA IMMA QGMMA BGMMA DMMA UTCHMMA UTCQMMA",
    "asynchronous copy": "LDGSTS LDGDEPBAR DEPBAR UTMALDG UTMASTG UTMAPF UTMACMDFLUSH "
    "UBLKCP UBLKRED",
    "global memory": "LDG STG LD ST RED REDG ATOM ATOMG",
    "shared memory": "LDS STS LDSM STSM ATOMS LDTM STTM",
    "local memory": "LDL STL",
    "special functions": "MUFU",
    "floating point": "FADD FMUL FFMA FMNMX FSETP FSEL FSET FCHK FADD2 FMUL2 FFMA2 FMNMX3 "
    "HADD2 HMUL2 HFMA2 HMNMX2 HSETP2 HSET2 DADD DMUL DFMA",
    "conversion": "F2F F2FP F2I I2F I2FP FRND I2I F2IP",
    "integers and addresses": "IMAD IADD3 IADD IADD32I LEA LOP3 LOP SHF SHL SHR ISETP IABS VIADD "
    "IMNMX VIMNMX VIADDMNMX SGXT PLOP3 BMSK POPC FLO IDP LEPC VOTE VOTEU P2R R2P ISCADD",
    "moves": "MOV PRMT SEL R2UR S2R S2UR CS2R CS2UR LDC LDCU ULDC SHFL MOVM REDUX",
    "synchronization": "BAR WARPGROUP WARPSYNC SYNCS MEMBAR FENCE NANOSLEEP ERRBAR CCTL "
    "ELECT ACQBULK",
    "control": "BRA BRX EXIT BSSY BSYNC CALL RET NOP BREAK JMP YIELD WARPGROUPSET USETMAXREG "
    "BPT KILL",
}
CLASS_OF = {opcode: kind for kind, opcodes in SASS.items() for opcode in opcodes.split()}
LINE = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)\s*([^;]*);")
TARGET = re.compile(r"0x([0-9a-f]+)")


def kind_of(opcode: str) -> str:
    """The class of an opcode such as `HGMMA.64x64x16.F32.BF16`."""
    head = opcode.split(".")[0]
    if opcode.startswith(("IMAD.MOV", "UIMAD.MOV")):
        return "moves"
    if head in CLASS_OF:
        return CLASS_OF[head]
    return "uniform" if head.startswith("U") else "other"


def instructions(sass: str) -> dict[str, Counter]:
    """{"all": classes of all instructions, "loop": those of the main loop} of one kernel.

    The main loop is the innermost one with the most tensor core instructions, or the longest one
    where there are none.
    """
    code = [(int(at, 16), op, rest) for at, _, op, rest in LINE.findall(sass)]
    loops = []
    for at, op, rest in code:
        target = TARGET.search(rest)
        if op.startswith("BRA") and target and int(target.group(1), 16) < at:
            loops.append((int(target.group(1), 16), at))
    mixes = {}
    for first, last in loops:
        inner = any((a, b) != (first, last) and first <= a and b <= last for a, b in loops)
        if not inner:
            mixes[first, last] = Counter(kind_of(op) for at, op, _ in code if first <= at <= last)
    main = max(mixes.values(), key=lambda m: (m["tensor cores"], m.total()), default=Counter())
    return {"all": Counter(kind_of(op) for _, op, _ in code), "loop": main}


def ptx_opcodes(ptx: str) -> Counter:
    """The first two parts of PTX instructions that tell how a kernel computes: wgmma, cp.async."""
    heads = re.findall(r"^\s+(?:@!?%p\d+\s+)?([a-z][a-z0-9_]*(?:\.[a-z0-9_:]+)*)\s", ptx, re.M)
    return Counter(".".join(head.split(".")[:2]) for head in heads)


TELLING = ("wgmma.mma_async", "mma.sync", "cp.async", "ld.global", "st.global", "ldmatrix.sync")
TELLING += ("ld.shared", "st.shared", "ex2.approx", "bar.sync", "fma.rn", "mul.f32", "add.f32")


def disassemble(cubin: bytes) -> str | None:
    """SASS of a kernel, by cuobjdump; None where that fails."""
    return compiled.tool("cuobjdump", "-sass", cubin) or None


# ----- compiled kernels -------------------------------------------------------------------------


def compiled_kernels(package: str = "kernels", known: set[int] | None = None) -> list[dict]:
    """A row for each Triton kernel of a package that this process has compiled and launched.

    Those in `known` are left out, and those that were found are put there.
    """
    known = set() if known is None else known
    found = {}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] != package:
            continue
        for thing in vars(module).values():
            if hasattr(thing, "device_caches") and hasattr(thing, "arg_names"):
                found[id(thing)] = thing
    rows = []
    for function in found.values():
        for caches in function.device_caches.values():
            parts = caches if isinstance(caches, tuple) else (caches,)
            kernels = [k for part in parts if isinstance(part, dict) for k in part.values()]
            new = [k for k in kernels if hasattr(k, "asm") and id(k) not in known]
            known |= {id(k) for k in new}
            rows += [_compiled(function, k) for k in new]
    return sorted(rows, key=lambda r: (r["kernel"], r["constants"]))


def _compiled(function, kernel) -> dict:
    """What the compiler made of a kernel; what is not to be had is None."""
    metadata = kernel.metadata
    sass = None
    if "cubin" in kernel.asm:
        sass = disassemble(kernel.asm["cubin"])
    row = {
        "kernel": metadata.name,
        "constants": _constants(function, kernel),
        "num_warps": getattr(metadata, "num_warps", None),
        "num_stages": getattr(metadata, "num_stages", None),
        "shared_bytes": getattr(metadata, "shared", None),
        "registers": getattr(kernel, "n_regs", None),
        "spills": getattr(kernel, "n_spills", None),
    }
    if sass:
        mix = instructions(sass)
        row |= {f"all: {kind}": n for kind, n in sorted(mix["all"].items())}
        row |= {f"loop: {kind}": n for kind, n in sorted(mix["loop"].items())}
    ptx = ptx_opcodes(kernel.asm["ptx"]) if "ptx" in kernel.asm else {}
    row |= {f"ptx: {name}": ptx[name] for name in TELLING if ptx.get(name)}
    return row


def _constants(function, kernel) -> str:
    """Compile-time constants as `BLOCK_N=128, FULL=True`."""
    try:
        constants = kernel.src.constants
        names = dict(enumerate(function.arg_names))
        pairs = [(names[at[0]], value) for at, value in constants.items() if len(at) == 1]
    except (AttributeError, KeyError, TypeError):
        return ""
    return ", ".join(f"{n}={v}" for n, v in pairs if n.isupper() and isinstance(v, (int, str)))


# ----- times ------------------------------------------------------------------------------------


def ceilings(device: str = "cuda", nbytes: int = 2**31, side: int = 8192) -> list[dict]:
    """Rates of this GPU: a copy of 1 GiB, and a product of bfloat16 matrices."""
    from .floor import copy_call

    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    out = torch.empty_like(a)
    copy, product = Lane(copy_call(nbytes, device)), Lane(lambda: torch.mm(a, b, out=out))
    race([copy, product], DeviceClock(), SAMPLING)
    rows = []
    for name, lane, amount, unit in (
        ("copy", copy, nbytes / 1e9, "GBps"),
        ("matmul", product, 2 * side**3 / 1e12, "TFLOPs"),
    ):
        if lane.failure is not None:
            reason = runner.one_line(lane.failure)
            rows.append({"kind": "ceiling", "what": name, "reason": reason})
            continue
        ms = lane.percentile(50)
        rows.append({"kind": "ceiling", "what": name, "median_ms": ms, unit: amount / ms * 1e3})
    return rows


def kernel_times(call, repeats: int = REPEATS) -> list[dict]:
    """Device time of each kernel of a call, by torch.profiler: name, launches a call, ms a call."""
    from torch.profiler import ProfilerActivity, profile

    call()
    torch.cuda.synchronize()
    both = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with profile(activities=both, acc_events=True) as profiler:  # else PyTorch warns, into a page
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
    return summed(profiler.events(), repeats)


def summed(events, repeats: int) -> list[dict]:
    """Events of a profiler as rows by kernel name, the longest first."""
    total, count = Counter(), Counter()
    for event in events:
        if str(getattr(event, "device_type", "")).endswith("CUDA"):
            name = _bare(event.name)
            microseconds = event.time_range.elapsed_us()
            total[name] += microseconds
            count[name] += 1
    everything = sum(total.values())
    return [
        {
            "kernel": name,
            "launches": count[name] / repeats,
            "ms": microseconds / repeats / 1e3,
            "share": microseconds / everything,
        }
        for name, microseconds in total.most_common()
    ]


def _bare(name: str) -> str:
    """The name of a kernel without its arguments and what it was made for."""
    named = re.sub(r"(\(anonymous namespace\)|<unnamed>)::", "", name)  # as CUPTI and ncu have it
    return (re.sub(r"<.*|\(.*", "", named).strip() or name)[:120]


def case(contender: str, work: str, ceiling: dict[str, float], **shape) -> list[dict]:
    """Rows of one shape and work: the whole call against the ceilings, then its kernels."""
    shape = Shape(**shape)
    one = contenders.get(contender)
    inputs = runner.Inputs(shape, work != FORWARD)
    call, _ = runner.prepare(one, inputs, work)
    where = {"contender": contender, "work": work, **asdict(shape)}
    lane = Lane(call, one.context)
    race([lane], DeviceClock(), SAMPLING)
    if lane.failure is not None:
        return [{"kind": "case", **where, "reason": runner.one_line(lane.failure)}]
    ms = lane.percentile(50)
    rows = [{"kind": "case", **where, "median_ms": ms, **rates(one, shape, work, ms, ceiling)}]
    try:
        with one.context():
            rows += [{"kind": "kernel", **where, **row} for row in kernel_times(call)]
    except Exception as problem:
        rows.append({"kind": "kernel", **where, "reason": runner.one_line(problem)})
    return rows


def rates(contender, shape: Shape, work: str, ms: float, ceiling: dict[str, float]) -> dict:
    """Achieved bytes and FLOPs a second, ideal ones, and their share of the measured ceilings."""
    nbytes = ideal_bytes(shape, work)
    flops = ideal_flops(shape, work, contender.function.family)
    found = {
        "GBps": nbytes / ms / 1e6,
        "TFLOPs": flops / ms / 1e9,
        "flops_per_byte": flops / nbytes,
    }
    if ceiling.get("GBps") and ceiling.get("TFLOPs"):
        memory, math = found["GBps"] / ceiling["GBps"], found["TFLOPs"] / ceiling["TFLOPs"]
        found |= {"share_of_copy": memory, "share_of_matmul": math}
        found["nearer_to"] = "copy" if memory >= math else "matmul"
    return found


def survey(items: list, contender: str = "book"):
    """Yields rows of ceilings, then of each (shape, work), with what was compiled for it.

    For a fresh process: after the rows of an item comes {"done": its name}. What was compiled is
    known of kernels of this book alone.
    """
    ceiling = {}
    for row in ceilings():
        ceiling |= {k: v for k, v in row.items() if k in ("GBps", "TFLOPs")}
        yield row
    known: set[int] = set()
    for shape, work in items:
        try:
            yield from case(contender, work, ceiling, **shape)
        except Exception as problem:
            reason = runner.one_line(problem)
            del problem
            yield {"kind": "case", "work": work, **shape, "reason": reason}
            runner.free("cuda")
        yield from ({"kind": "compiled", **row} for row in compiled_kernels(known=known))
        yield {"done": f"{Shape(**shape)}, {work}"}


# ----- hardware counters ------------------------------------------------------------------------

COUNTERS = {
    "dram__bytes_read.sum": "read_bytes",
    "dram__bytes_write.sum": "written_bytes",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "memory_percent",
    "sm__inst_executed.sum": "instructions",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "sm_percent",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "occupancy_percent",
    "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active": "tensor_percent",
    "smsp__issue_active.avg.pct_of_peak_sustained_active": "issue_percent",
}


def once(contender: str, work: str, **shape) -> dict:
    """One call after another that compiled: what ncu looks at."""
    shape = Shape(**shape)
    one = contenders.get(contender)
    call, _ = runner.prepare(one, runner.Inputs(shape, work != FORWARD), work)
    with one.context():
        call()
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStart()
        call()
        torch.cuda.synchronize()
        torch.cuda.cudart().cudaProfilerStop()
    return {}


def counters(
    shape: Shape,
    work: str,
    contender: str = "book",
    timeout_s: float = 120.0,
    module: str = __name__,
):
    """Rows of hardware counters by kernel, or one row that says why there are none.

    What is counted is whatever `module.once` launches between its cudaProfilerStart and Stop.
    """
    import json
    import os

    where = {"kind": "counters", "contender": contender, "work": work, **asdict(shape)}
    ncu = shutil.which("ncu")
    if ncu is None:
        reason = "ncu, the profiler of NVIDIA's Nsight Compute, is not here"
        return [where | {"status": "not available", "reason": reason}]
    arguments = json.dumps({"contender": contender, "work": work, **asdict(shape)})
    command = [ncu, "--csv", "--page", "raw", "--profile-from-start", "off"]
    command += ["--metrics", ",".join(COUNTERS), sys.executable, "-m", "bench.fresh"]
    path = os.pathsep.join(filter(None, [str(fresh.ROOT), os.environ.get("PYTHONPATH")]))
    try:
        done = subprocess.run(
            [*command, module, "once", arguments],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**os.environ, "PYTHONPATH": path},
        )
    except (OSError, subprocess.SubprocessError) as problem:
        return [where | {"status": "failed", "reason": runner.one_line(problem)}]
    rows = parse_counters(done.stdout)
    if not rows:
        lines = [x for x in done.stdout.splitlines() if x.startswith("==ERROR==")]
        reason = " ".join((lines or done.stderr.splitlines() or ["no rows"])[-1].split())[:200]
        return [where | {"status": "failed", "reason": reason}]
    return [where | {"status": "ok", "reason": None, **row} for row in rows]


def parse_counters(text: str) -> list[dict]:
    """Rows of `ncu --csv --page raw`: its header line, a line of units, a line for each kernel."""
    lines = [x for x in text.splitlines() if x.startswith('"')]
    if len(lines) < 3:
        return []
    header, units, *rows = csv.reader(io.StringIO("\n".join(lines)))
    scale = {"Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9, "Tbyte": 1e12}
    found = []
    for row in rows:
        facts = dict(zip(header, zip(row, units, strict=True), strict=True))
        out = {"kernel": _bare(facts.get("Kernel Name", ("?", ""))[0])}
        for metric, name in COUNTERS.items():
            value, unit = facts.get(metric, ("", ""))
            try:
                out[name] = float(value.replace(",", "")) * scale.get(unit, 1)
            except ValueError:
                out[name] = None
        found.append(out)
    return found
