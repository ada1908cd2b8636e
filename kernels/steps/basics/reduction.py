"""The sum of a vector: by one program, by many that add atomically, and in two stages."""

import torch
import triton
import triton.language as tl

BLOCK = 4096
WARPS = 8


# [sum:begin]
@triton.jit
def sum_kernel(
    x,  # [n] contiguous
    sums,  # [programs] float32 written; or [1] that all programs add to
    n, share,
    BLOCK: tl.constexpr, ATOMIC: tl.constexpr,
):  # fmt: skip
    """Each program sums `share` elements; their sum is stored, or added to sums[0]."""
    program = tl.program_id(0)
    first = program.to(tl.int64) * share
    last = tl.minimum(first + share, n)
    acc = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(first, last, BLOCK):
        offs = start + tl.arange(0, BLOCK)  # [BLOCK]
        acc += tl.load(x + offs, offs < last, 0.0).to(tl.float32)
    total = tl.sum(acc, axis=0)
    if ATOMIC:
        tl.atomic_add(sums, total)
    else:
        tl.store(sums + program, total)
    # [sum:end]


def _launch(x, sums, programs, atomic):
    n = x.numel()
    share = triton.cdiv(triton.cdiv(n, programs), BLOCK) * BLOCK  # in whole blocks
    sum_kernel[(programs,)](
        x=x, sums=sums, n=n, share=share, BLOCK=BLOCK, ATOMIC=atomic, num_warps=WARPS
    )


# [launch:begin]
def one_program(x):
    """Σ x as a float32 tensor [1], by one program."""
    total = torch.empty(1, dtype=torch.float32, device=x.device)
    _launch(x, total, programs=1, atomic=False)
    return total


def atomic(x, programs):
    """The same by many programs, which add to one number in any order."""
    total = torch.zeros(1, dtype=torch.float32, device=x.device)
    _launch(x, total, programs, atomic=True)
    return total


def two_stage(x, programs):
    """The same by many programs that store their sums, and one that adds those in order."""
    sums = torch.empty(programs, dtype=torch.float32, device=x.device)
    _launch(x, sums, programs, atomic=False)
    return one_program(sums)
    # [launch:end]
