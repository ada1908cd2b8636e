"""Solution of the puzzle `causal_normalizer`."""

import triton
import triton.language as tl

from kernels.steps.normalized import elu_plus_one


# [puzzle:begin]
@triton.jit
def kernel(
    q,  # [heads, N, D] contiguous
    k,  # [heads, N, D] contiguous
    d,  # [heads, N] float32 contiguous, written
    N, D: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """d_t = φ(q_t) · Σ φ(k_j) over j ≤ t, for all tokens of one head."""
    head = tl.program_id(0)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)  # the next power of two, D or more
    d += head * N

    b_z = tl.zeros([BLOCK_D], dtype=tl.float32)  # what came before the chunk
    for n in range(0, N, BLOCK_N):
        rows = n + offs_n
        keep = (rows[:, None] < N) & (offs_d[None, :] < D)
        at = (head * N + rows[:, None]) * D + offs_d[None, :]
        # [BLOCK_N, BLOCK_D], both
        fq = tl.where(keep, elu_plus_one(tl.load(q + at, keep, 0.0)), 0.0)
        fk = tl.where(keep, elu_plus_one(tl.load(k + at, keep, 0.0)), 0.0)
        b_d = tl.zeros([BLOCK_N], dtype=tl.float32)
        weights = tl.dot(fq, tl.trans(fk), input_precision="ieee")  # [query, key]
        weights = tl.where(offs_n[:, None] >= offs_n[None, :], weights, 0.0)
        b_d += tl.sum(weights, axis=1)
        b_d += tl.sum(fq * b_z[None, :], axis=1)
        b_z += tl.sum(fk, axis=0)
        tl.store(d + rows, b_d, rows < N)
    # [puzzle:end]
