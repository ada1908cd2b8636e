"""A copy that also computes: how much arithmetic fits into the time that the bytes take."""

import torch
import triton
import triton.language as tl

BLOCK = 1024  # elements of a program
NUM_WARPS = 4


# [intensity:begin]
@triton.jit(do_not_specialize=["turns"])
def intensity_kernel(
    x,  # [size] float32, a multiple of BLOCK
    y,  # [size] float32, written
    turns,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Copy x, and on the way multiply and add `turns` times."""
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    b = tl.load(x + offs)
    for _ in range(turns):
        b = b * 0.5 + 1.0
    tl.store(y + offs, b)
    # [intensity:end]


def copy_and_compute(x, turns, out=None):
    """x [size] after `turns` steps of x ← x / 2 + 1; written into `out` if there is one."""
    y = torch.empty_like(x) if out is None else out
    intensity_kernel[(x.numel() // BLOCK,)](x=x, y=y, turns=turns, BLOCK=BLOCK, num_warps=NUM_WARPS)
    return y
