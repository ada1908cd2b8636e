"""Read every stride-th element: memory comes in sectors, whatever part of them is asked for."""

import torch
import triton
import triton.language as tl

BLOCK = 1024  # elements of a program
NUM_WARPS = 4


# [stride:begin]
@triton.jit
def stride_kernel(
    x,  # [elements * stride] float32
    sums,  # [programs] float32, written
    stride,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The sum of BLOCK elements of x that lie `stride` apart."""
    program = tl.program_id(0)
    offs = program.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(sums + program, tl.sum(tl.load(x + offs * stride)))
    # [stride:end]


def read_strided(x, stride, elements):
    """[elements / BLOCK]: the sums of x[0], x[stride], x[2 stride], … in blocks."""
    programs = elements // BLOCK
    sums = torch.empty(programs, dtype=torch.float32, device=x.device)
    stride_kernel[(programs,)](x=x, sums=sums, stride=stride, BLOCK=BLOCK, num_warps=NUM_WARPS)
    return sums
