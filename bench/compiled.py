"""What the compiler makes of a kernel: its text at every stage, registers, shared memory, spills.

`ahead` compiles kernels for a GPU that need not be there; where this process runs kernels in
Triton's interpreter, which cannot, in a process of its own. `describe` says the same of a kernel
that was launched.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from kernels.ops import INTERPRETED

from .errors import BenchError
from .hardware import ROOT

# Compile at the same time: each waits for a program of NVIDIA's most of the time.
THREADS = max(8, min(os.cpu_count() or 1, 32))
STAGES = ("ttir", "ttgir", "llir", "ptx", "sass")
KINDS = {
    "load from global memory": r"LDG",
    "copy from global to shared memory": r"LDGSTS|UBLKCP|UTMALDG",
    "store to global memory": r"STG",
    "load from shared memory": r"LDS|LDSM",
    "store to shared memory": r"STS|STSM",
    "tensor core": r"HGMMA|QGMMA|HMMA|WGMMA|IMMA",
    "float32 add, multiply, fused": r"FADD|FMUL|FFMA",
    "special function": r"MUFU",
    "exchange in a warp": r"SHFL|REDUX",
    "wait for other warps": r"BAR|SYNCS",
}
INSTRUCTION = re.compile(r"^\s*(?:/\*\w+\*/)?\s*(?:@!?U?P\w+\s+)?([A-Z][A-Za-z0-9_.]+)\b.*;", re.M)


@dataclass(frozen=True)
class Spec:
    """A kernel, what it is compiled for, and how.

    `types` has one of Triton's names ("*fp32", "i32", …) for each argument that is no constant;
    `aligned` names those that are known to be a multiple of 16, as Triton finds out at a launch.
    """

    module: str
    kernel: str
    types: dict[str, str]
    constants: dict[str, object]
    aligned: tuple[str, ...] = ()
    options: dict[str, int] = field(default_factory=dict)
    arch: int = 90

    @classmethod
    def of(cls, kernel, types, constants, aligned=None, arch=90, **options):
        """Of a `@triton.jit` function; all pointers and numbers are aligned unless said."""
        aligned = tuple(types) if aligned is None else tuple(aligned)
        name = kernel.fn.__module__, kernel.fn.__name__
        return cls(*name, types, constants, aligned, options, arch)


@dataclass(frozen=True)
class Compiled:
    """A compiled kernel; what could not be found out is None, and its stage is missing."""

    stages: dict[str, str]
    num_warps: int
    shared: int  # bytes a program
    registers: int | None = None  # a thread
    local: int | None = None  # bytes a thread that went to memory for want of registers

    def lines(self, stage: str) -> int | None:
        """Lines of a stage that are neither empty nor comments nor debugging information."""
        return None if stage not in self.stages else len(bare(self.stages[stage], stage))

    def opcodes(self) -> Counter:
        """How often each instruction stands in the machine code: {"LDG.E.128": 2, …}."""
        return Counter(INSTRUCTION.findall(self.stages.get("sass", "")))

    def mix(self) -> dict[str, int]:
        """How many instructions of each kind of KINDS stand in the machine code."""
        counts = self.opcodes()
        found = {k: [n for o, n in counts.items() if _is(o, p)] for k, p in KINDS.items()}
        return {kind: sum(numbers) for kind, numbers in found.items()}

    def excerpt(self, stage: str, pattern: str, each: int = 2, width: int = 76) -> str:
        """The lines of a stage that match, none wider than `width`, and of each match a few.

        What is left out is counted in a line `… n more`.
        """
        texts = bare(self.stages.get(stage, ""), stage)
        hits = [(m.group(), x) for x in texts if (m := re.search(pattern, x))]
        total, shown, lines = Counter(key for key, _ in hits), Counter(), []
        for key, text in hits:
            shown[key] += 1
            text = " ".join(text.split("\t")).strip() if stage in ("ptx", "sass") else text
            if shown[key] <= each:
                lines.append(text if len(text) <= width else text[: width - 2] + " …")
            if shown[key] == each and total[key] > each:
                lines.append(f"    … {total[key] - each} more with {key.strip()}")
        return "\n".join(lines)


def _is(opcode: str, pattern: str) -> bool:
    return re.fullmatch(pattern, opcode.split(".")[0]) is not None


def bare(text: str, stage: str) -> list[str]:
    """The lines of a stage without debugging information, comments and empty lines."""
    if stage in ("ttir", "ttgir"):
        text = re.sub(r"\s*loc\((?:[^()]|\([^()]*\))*\)", "", text)
        return [x.rstrip() for x in text.splitlines() if x.strip() and not x.startswith("#loc")]
    if stage == "llir":
        text = re.sub(r",? !(?:dbg|srcloc) ![0-9]+", "", text)
        return [x.rstrip() for x in text.splitlines() if re.match(r"\s*[^\s;!]", x)]
    if stage == "ptx":
        text = text.split(".section")[0]
        text = re.sub(r"//.*", "", text)
        skip = r"\s*(\.loc|\.file|\$L__tmp|$)"
        return [x.rstrip() for x in text.splitlines() if not re.match(skip, x)]
    if stage == "sass":
        return [x.strip() for x in text.splitlines() if INSTRUCTION.match(x) and "NOP" not in x]
    return text.splitlines()


def ahead(specs: list[Spec]) -> list[Compiled]:
    """Compile kernels without a GPU; BenchError says why where that cannot be done."""
    specs = [asdict(spec) for spec in specs]
    if INTERPRETED:
        text = _python("bench.compiled", None, json.dumps(specs))
        return [Compiled(**c) for c in json.loads(text.splitlines()[-1])]
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            return [Compiled(**c) for c in pool.map(_compile, specs)]
    except Exception as problem:
        reason = (str(problem).strip().splitlines() or [type(problem).__name__])[-1]
        raise BenchError(f"The compiler could not be run here: {reason}") from None


def at_once(calls: Iterable[Callable]) -> None:
    """Make calls that launch kernels, several at a time, so that these are compiled together.

    The first is made alone, since it sets Triton up. What fails is left to whoever makes the call
    again.
    """

    def run(call):
        # a backward pass in this thread too, or all of them would queue up in another one
        with suppress(Exception), torch.autograd.set_multithreading_enabled(False):
            call()

    first, *others = calls
    run(first)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(run, others))


def interpret(module: str) -> str:
    """What a module prints when it is run as a program in Triton's interpreter."""
    return _python(module, "1", "").rstrip()


def _python(module: str, interpreter: str | None, given: str) -> str:
    """Run a module in a process of its own, where Triton's interpreter is on or off."""
    environment = {n: x for n, x in os.environ.items() if n != "TRITON_INTERPRET"}
    environment |= {"TRITON_INTERPRET": interpreter} if interpreter else {}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", module]
    try:
        run = subprocess.run(
            command, input=given, env=environment, capture_output=True, text=True, timeout=300
        )
    except (OSError, subprocess.SubprocessError) as problem:
        raise BenchError(f"{module} could not be run here: {problem}") from None
    if run.returncode:
        reason = (run.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise BenchError(f"{module} could not be run here: {reason}")
    return run.stdout


def describe(kernel, sass: bool = True) -> Compiled:
    """Of what Triton's compiler, or a launch, returned; `sass` takes a little time."""
    stages = {s: kernel.asm[s] for s in STAGES[:-1] if s in kernel.asm}
    cubin = kernel.asm.get("cubin")
    usage = _usage(cubin) if cubin else (None, None)
    text = tool("nvdisasm", "-c", cubin) if cubin and sass else None
    if text:
        stages["sass"] = text
    meta = kernel.metadata
    return Compiled(stages, meta.num_warps, meta.shared, *usage)


@contextmanager
def caught(kernel):
    """Within it, a list of what each launch of a `@triton.jit` function ran, for `describe`."""
    ran = []
    run = kernel.run

    def keep(*args, **kwargs):
        made = run(*args, **kwargs)
        if not kwargs.get("warmup"):  # which compiles, and launches nothing
            ran.append(made)
        return made

    kernel.run = keep
    try:
        yield ran
    finally:
        del kernel.run


def tool(name: str, option: str, cubin: bytes) -> str | None:
    """The output of one of NVIDIA's tools on a binary; None if it is not there or fails."""
    import triton

    inside = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    program = str(inside) if inside.exists() else shutil.which(name)
    if program is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        try:
            done = subprocess.run([program, option, str(path)], capture_output=True, timeout=60)
        except (OSError, subprocess.SubprocessError):
            return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def _usage(cubin: bytes) -> tuple[int | None, int | None]:
    """(registers a thread, bytes of local memory a thread) of a binary, where they can be found."""
    text = tool("cuobjdump", "--dump-resource-usage", cubin) or ""
    found = [re.search(rf"{name}:(\d+)", text) for name in ("REG", "STACK", "LOCAL")]
    registers, stack, local = (int(f.group(1)) if f else None for f in found)
    return registers, None if stack is None else stack + (local or 0)


def _compile(spec: dict) -> dict:
    from importlib import import_module

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(import_module(spec["module"]), spec["kernel"])
    names = kernel.arg_names
    signature = {n: spec["types"].get(n, "constexpr") for n in names}
    constants = {(names.index(n),): value for n, value in spec["constants"].items()}
    aligned = {(names.index(n),): [["tt.divisibility", 16]] for n in spec["aligned"]}
    source = ASTSource(kernel, signature, constants, aligned)
    target = GPUTarget("cuda", spec["arch"], 32)
    return asdict(describe(triton.compile(source, target=target, options=spec["options"])))


if __name__ == "__main__":
    print(json.dumps([_compile(spec) for spec in json.load(sys.stdin)]))
