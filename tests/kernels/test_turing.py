"""What a notebook launches on a T4 compiles for its sm_75 and fits its 64 KiB of shared memory.

There the operator runs as the PyTorch reference. What remains are the steps, which their own tests
compile, and the puzzles and loose kernels here. No GPU is needed, see `ahead`.
"""

import re
from pathlib import Path

import ahead

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
from kernels.steps.clinic import copied, tuned

names = []
for name in puzzles.PUZZLES:
    if "triton.jit" in (puzzles.HERE / f"{name}.py").read_text():
        names.append(f"puzzle_{name}_solution")
        puzzles.check(name, solution=True)  # compiles instead of launching, so it is not right

x = torch.zeros(2, 2, 512, 64)
recurrent.forward(x, x, x)
a = torch.zeros(4096)
copied.copy(a, a)
kernel = tuned.add_kernel  # an autotuner: its kernel, in each of its configurations
for config in kernel.configs:
    options = {**config.kwargs, "num_warps": config.num_warps, "num_stages": config.num_stages}
    kernel.fn[(1,)](x=a, y=a, out=a, n=a.numel(), **options)
shared = {name: k.metadata.shared for name, k in compiled.items()}
print(json.dumps({"puzzles": names, "shared": shared}))
"""
# Not compiled for an sm_75: this one is only ever interpreted, and the steps of the journey beyond
# those that its test names need tensor cores. On a T4 their rows say that they failed.
ELSEWHERE = {"watched", "masks_again", "packed", "tensor_cores", "transposed", "masks", "looped"}


def test_puzzles_and_loose_kernels_compile_and_fit():
    found = ahead.run(PROGRAM)
    shared = found["shared"]
    compiled = {name.rsplit(".", 1)[0] for name in shared}
    assert len(found["puzzles"]) > 5 and set(found["puzzles"]) <= compiled
    loose = {"causal.recurrent", "clinic.copied", "clinic.tuned"}
    assert {f"kernels.steps.{name}" for name in loose} <= compiled
    assert not {name: n for name, n in shared.items() if n > LIMIT}


def test_every_step_with_a_kernel_is_compiled_for_it_somewhere():
    texts = [path.read_text() for path in Path(__file__).parent.glob("test_*.py")]
    texts = [text for text in texts if re.search(r"[(\[ ]75[,\])]", text)]
    steps = {
        path.stem
        for path in (ROOT / "kernels/steps").rglob("*.py")
        if path.stem != "__init__" and "@triton.jit" in path.read_text()
    }
    named = {step for step in steps if any(re.search(rf"\b{step}\b", text) for text in texts)}
    assert steps - named - ELSEWHERE == set()
