"""The sum of two vectors: one block a program, and a mask for the last one."""

import torch
import triton
import triton.language as tl

BLOCK = 1024


# [add:begin]
@triton.jit
def add_kernel(
    x,  # [n] contiguous
    y,  # [n] contiguous
    out,  # [n] contiguous, written
    n,
    BLOCK: tl.constexpr,
):
    """out = x + y."""
    program = tl.program_id(0)
    offs = program * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    keep = offs < n  # [BLOCK]
    b_x = tl.load(x + offs, mask=keep)  # [BLOCK]
    b_y = tl.load(y + offs, mask=keep)  # [BLOCK]
    tl.store(out + offs, b_x + b_y, mask=keep)
    # [add:end]


# [launch:begin]
def add(x, y, out=None, *, block=BLOCK, num_warps=4):
    """x + y for contiguous x and y of one shape and dtype, of fewer than 2³¹ elements."""
    out = torch.empty_like(x) if out is None else out
    n = x.numel()
    programs = triton.cdiv(n, block)
    if programs:
        add_kernel[(programs,)](x=x, y=y, out=out, n=n, BLOCK=block, num_warps=num_warps)
    return out
    # [launch:end]
