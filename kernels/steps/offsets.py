"""An offset is row · stride: what a kernel computes in 32 and in 64 bits."""

import torch
import triton
import triton.language as tl


# [offsets:begin]
@triton.jit
def offset_kernel(
    offsets,  # [2] int64, written
    row, stride,
):  # fmt: skip
    """row · stride, first as Triton computes it, then with `row` made 64 bits wide before."""
    tl.store(offsets, row * stride)
    tl.store(offsets + 1, row.to(tl.int64) * stride)
    # [offsets:end]


def offsets(row, stride, device="cpu"):
    """(the product in 32 bits, the product in 64 bits) of two numbers below 2³¹."""
    both = torch.empty(2, dtype=torch.int64, device=device)
    offset_kernel[(1,)](offsets=both, row=row, stride=stride)
    return tuple(both.tolist())
