"""Rows that lie far apart: their offset needs 64 bits, and a mask does not catch it."""

import torch
import triton
import triton.language as tl


# [row-sum:begin]
@triton.jit
def row_sum_kernel(
    x,  # [R, C] int8, the columns contiguous
    sums,  # [R] int32, written
    stride_r, C,
    BLOCK_C: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The sum of one row; its offset is counted in 64 bits if WIDE, else in 32."""
    row = tl.program_id(0)
    if WIDE:
        row = row.to(tl.int64)
    cols = tl.arange(0, BLOCK_C)  # [BLOCK_C]
    b_x = tl.load(x + row * stride_r + cols, cols < C, 0)  # [BLOCK_C] int8
    tl.store(sums + row, tl.sum(b_x.to(tl.int32), axis=0))
    # [row-sum:end]


def row_sums(x, wide):
    """Sums [R] int32 of the rows of x [R, C] int8, whose columns are contiguous."""
    R, C = x.shape
    sums = torch.empty(R, dtype=torch.int32, device=x.device)
    row_sum_kernel[(R,)](
        x=x, sums=sums, stride_r=x.stride(0), C=C, BLOCK_C=triton.next_power_of_2(C), WIDE=wide
    )
    return sums


# [neighbours:begin]
def far_rows(device, far=2**30):
    """x [3, 8] int8 of ones whose rows lie `far` bytes apart, and what lies before it.

    Both are views of one storage of over 4 `far` bytes, of which a CPU provides what is touched;
    `before` [1, 8], of nines, is where row 2 would be found if 2 `far` became -2 `far`.
    """
    room = torch.UntypedStorage(4 * far + 8, device=device)
    x = torch.tensor([], dtype=torch.int8, device=device).set_(room, 2 * far, (3, 8), (far, 1))
    before = torch.tensor([], dtype=torch.int8, device=device).set_(room, 0, (1, 8), (8, 1))
    return x.fill_(1), before.fill_(9)
    # [neighbours:end]
