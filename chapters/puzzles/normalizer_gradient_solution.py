"""Solution of the puzzle `normalizer_gradient`."""

import triton
import triton.language as tl

from kernels.steps.normalized import elu_plus_one


# [puzzle:begin]
@triton.jit
def kernel(
    q,  # [heads, N, D] contiguous
    o,  # [heads, N, DV] contiguous
    do,  # [heads, N, DV] contiguous, gradient of o
    d,  # [heads, N] contiguous, the denominators
    dz,  # [heads, D], written
    N, D: tl.constexpr, DV: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0)
    offs_d = tl.arange(0, BLOCK_D)
    offs_dv = tl.arange(0, BLOCK_DV)
    q += head * N * D
    o += head * N * DV
    do += head * N * DV
    d += head * N
    b_dz = tl.zeros([BLOCK_D], dtype=tl.float32)
    for n in range(0, N, BLOCK_N):
        rows = n + tl.arange(0, BLOCK_N)
        keep_q = (rows[:, None] < N) & (offs_d[None, :] < D)
        # [BLOCK_N, BLOCK_D]
        b_q = tl.load(q + rows[:, None] * D + offs_d[None, :], keep_q, 0.0)
        fq = elu_plus_one(b_q)
        keep_o = (rows[:, None] < N) & (offs_dv[None, :] < DV)
        # [BLOCK_N, BLOCK_DV]
        b_o = tl.load(o + rows[:, None] * DV + offs_dv[None, :], keep_o, 0.0)
        # [BLOCK_N, BLOCK_DV]
        b_do = tl.load(do + rows[:, None] * DV + offs_dv[None, :], keep_o, 0.0)
        # [BLOCK_N]
        b_d = tl.load(d + rows, rows < N, 1.0)
        r = -tl.sum(b_o * b_do, axis=1) / b_d
        b_dz += tl.sum(fq * r[:, None], axis=0)
    tl.store(dz + head * D + offs_d, b_dz, offs_d < D)
    # [puzzle:end]
