"""Transposition: read along rows, write along columns, and let the tile's shape say how well."""

import torch
import triton
import triton.language as tl

NUM_WARPS = 4


# [transpose:begin]
@triton.jit
def transpose_kernel(
    x,  # [M, N]
    y,  # [N, M], written
    M, N,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """y = xᵀ, one tile a program."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    # [BLOCK_M, BLOCK_N]
    tile = tl.load(x + rows[:, None] * N + columns[None, :])
    # [BLOCK_N, BLOCK_M]
    tl.store(y + columns[:, None] * M + rows[None, :], tl.trans(tile))
    # [transpose:end]


def transpose(x, block_m, block_n, out=None):
    """xᵀ, contiguous, of a contiguous x [M, N]; written into `out` if there is one."""
    M, N = x.shape
    y = torch.empty((N, M), dtype=x.dtype, device=x.device) if out is None else out
    transpose_kernel[(M // block_m, N // block_n)](
        x=x, y=y, M=M, N=N, BLOCK_M=block_m, BLOCK_N=block_n, num_warps=NUM_WARPS
    )
    return y
