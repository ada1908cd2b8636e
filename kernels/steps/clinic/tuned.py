"""A kernel that tunes itself at its first call, as many published ones do. The library's do not."""

import torch
import triton
import triton.language as tl


# [tuned:begin]
@triton.autotune(
    [
        triton.Config({"BLOCK": block}, num_warps=warps)
        for block in (256, 1024, 4096)
        for warps in (4, 8)
    ],
    key=["n"],
)
@triton.jit
def add_kernel(
    x,  # [n] contiguous
    y,  # [n] contiguous
    out,  # [n] contiguous, written
    n,
    BLOCK: tl.constexpr,
):
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    b_x = tl.load(x + offs, offs < n, 0.0)  # [BLOCK]
    b_y = tl.load(y + offs, offs < n, 0.0)  # [BLOCK]
    tl.store(out + offs, b_x + b_y, offs < n)
    # [tuned:end]


def add(x, y):
    """x + y for contiguous tensors of one shape and dtype."""
    out = torch.empty_like(x)
    n = x.numel()
    add_kernel[lambda c: (triton.cdiv(n, c["BLOCK"]),)](x=x, y=y, out=out, n=n)
    return out
