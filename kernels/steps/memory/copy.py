"""Copy: the least that a kernel can do with memory, each element read once and written once."""

import torch
import triton
import triton.language as tl

BLOCK = 2048  # elements of a program
NUM_WARPS = 4


# [copy:begin]
@triton.jit
def copy_kernel(
    x,  # [size], a multiple of BLOCK
    y,  # [size], written
    BLOCK: tl.constexpr,
):  # fmt: skip
    """y = x, one block a program."""
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + offs, tl.load(x + offs))
    # [copy:end]


def copy(x, out=None):
    """A copy of x [size], or x written into `out`."""
    y = torch.empty_like(x) if out is None else out
    copy_kernel[(x.numel() // BLOCK,)](x=x, y=y, BLOCK=BLOCK, num_warps=NUM_WARPS)
    return y
