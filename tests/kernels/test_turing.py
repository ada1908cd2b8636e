"""What a notebook launches on a T4 compiles for its sm_75 and fits its 64 KiB of shared memory.

There the operator runs as the PyTorch reference. What remains are the steps, which their own tests
compile and name in COMPILED, and the puzzles and loose kernels here. No GPU is needed, see `ahead`.
"""

from pathlib import Path

import ahead
import test_backward_steps
import test_basics
import test_causal_steps
import test_decoding_steps
import test_journey
import test_memory_probes
import test_steps

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 64 * 1024
PROGRAM = """
import json, sys
sys.path.insert(0, "chapters")
import ahead
import torch

compiled = ahead.instead_of_launching(75)
import puzzles
from kernels.steps.causal import recurrent
from kernels.steps.clinic import scale, tuned

names = []
for name in puzzles.PUZZLES:
    if "triton.jit" in (puzzles.HERE / f"{name}.py").read_text():
        names.append(f"puzzle_{name}_solution")
        puzzles.check(name, solution=True)  # compiles instead of launching, so it is not right

x = torch.zeros(2, 2, 512, 64)
recurrent.forward(x, x, x)
a = torch.zeros(4096)
scale.scaled(a, 3.0)
kernel = tuned.add_kernel  # an autotuner: its kernel, in each of its configurations
for config in kernel.configs:
    options = {**config.kwargs, "num_warps": config.num_warps, "num_stages": config.num_stages}
    kernel.fn[(1,)](x=a, y=a, out=a, n=a.numel(), **options)
shared = {name: k.metadata.shared for name, k in compiled.items()}
print(json.dumps({"puzzles": names, "shared": shared}))
"""
LOOSE = {"causal.recurrent", "clinic.scale", "clinic.tuned"}
TESTS = (  # each compiles for an sm_75 what its COMPILED names, and nothing else
    test_backward_steps,
    test_basics,
    test_causal_steps,
    test_decoding_steps,
    test_journey,
    test_memory_probes,
    test_steps,
)
ELSEWHERE = {"basics.watched"}  # only ever interpreted


def test_puzzles_and_loose_kernels_compile_and_fit():
    found = ahead.run(PROGRAM)
    shared = found["shared"]
    compiled = ahead.modules(shared)
    assert len(found["puzzles"]) > 5 and set(found["puzzles"]) <= compiled
    assert LOOSE <= compiled
    assert not {name: n for name, n in shared.items() if n > LIMIT}


def test_every_step_with_a_kernel_is_compiled_for_it_somewhere():
    steps = {
        ".".join(path.relative_to(ROOT / "kernels/steps").with_suffix("").parts)
        for path in (ROOT / "kernels/steps").rglob("*.py")
        if path.stem != "__init__" and "@triton.jit" in path.read_text()
    }
    assert steps - LOOSE.union(*(test.COMPILED for test in TESTS)) == ELSEWHERE
