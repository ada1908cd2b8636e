"""Puzzle: S and z in one matrix product, by a column of ones beside v."""

import triton
import triton.language as tl

from kernels.steps.normalized import elu_plus_one


# [puzzle:begin]
@triton.jit
def kernel(
    k,  # [heads, N, D] contiguous
    v,  # [heads, N, DV] contiguous
    s,  # [heads, D, DV + 1] float32, to be written: S, and z as its last column
    N, D, DV,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    offs_dv = tl.arange(0, BLOCK_DV)  # BLOCK_DV > DV: there is room for the ones
    k += head * N * D
    v += head * N * DV
    s += head * D * (DV + 1)
    b_s = tl.zeros([BLOCK_D, BLOCK_DV], dtype=tl.float32)
    for n in range(0, N, BLOCK_N):
        rows = n + offs_n
        keep_k = (rows[:, None] < N) & (offs_d[None, :] < D)
        keep_v = (rows[:, None] < N) & (offs_dv[None, :] < DV)
        # [BLOCK_N, BLOCK_D]
        b_k = tl.load(k + rows[:, None] * D + offs_d[None, :], keep_k, 0.0)
        # [BLOCK_N, BLOCK_DV]
        b_v = tl.load(v + rows[:, None] * DV + offs_dv[None, :], keep_v, 0.0)
        # Your lines: make column DV of b_v a column of ones, for the rows that exist.
        fk = elu_plus_one(b_k)  # not masked: is that right?
        b_s = tl.dot(tl.trans(fk), b_v.to(tl.float32), b_s, input_precision="ieee")
    keep_s = (offs_d[:, None] < D) & (offs_dv[None, :] < DV + 1)
    tl.store(s + offs_d[:, None] * (DV + 1) + offs_dv[None, :], b_s, keep_s)
    # [puzzle:end]
