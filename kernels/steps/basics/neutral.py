"""What a masked load puts in place of what is not there: the neutral element of the operation."""

import torch
import triton
import triton.language as tl


# [row-max:begin]
@triton.jit
def row_max_kernel(
    x,  # [R, C] contiguous
    out,  # [R] written
    C, BLOCK_C: tl.constexpr, FILL: tl.constexpr,
):  # fmt: skip
    """The maximum of one row; behind its end stands FILL."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK_C)  # [BLOCK_C]
    b_x = tl.load(x + row * C + cols, cols < C, FILL)  # [BLOCK_C]
    tl.store(out + row, tl.max(b_x, axis=0))
    # [row-max:end]


def row_max(x, fill):
    """The maximum of each row of x [R, C] contiguous, with `fill` behind the end of a row."""
    R, C = x.shape
    out = torch.empty(R, dtype=x.dtype, device=x.device)
    row_max_kernel[(R,)](x=x, out=out, C=C, BLOCK_C=triton.next_power_of_2(C), FILL=fill)
    return out
