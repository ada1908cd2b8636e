"""Solution of the puzzle `output_pass`."""

import triton
import triton.language as tl

from kernels.steps.normalized import elu_plus_one


# [puzzle:begin]
@triton.jit
def kernel(
    q,  # [heads, N, D] contiguous
    states,  # [heads, D * D + D] float32: S row by row, then z
    o,  # [heads, N, D] contiguous, to be written
    N, share, eps, D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """o = φ(q) S / (φ(q)·z + eps) for one part, `share` rows, of one head."""
    head = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * share
    last = tl.minimum(first + share, N)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, D)
    q += head * N * D
    states += head * (D * D + D)
    o += head * N * D
    # [D, D]
    b_s = tl.load(states + offs_d[:, None] * D + offs_d[None, :])
    # [D]
    b_z = tl.load(states + D * D + offs_d)
    b_s = b_s.to(q.dtype.element_ty)
    for n in range(first, last, BLOCK_N):
        rows = n + offs_n
        keep = rows[:, None] < last
        at = rows[:, None] * D + offs_d[None, :]
        # [BLOCK_N, D]
        b_q = tl.load(q + at, keep, 0.0)
        fq = elu_plus_one(b_q)  # [BLOCK_N, D] float32
        b_o = tl.dot(fq.to(b_s.dtype), b_s, input_precision="ieee")
        below = tl.sum(fq * b_z[None, :], axis=1) + eps  # [BLOCK_N]
        b_o *= (1.0 / below)[:, None]
        tl.store(o + at, b_o.to(o.dtype.element_ty), keep)
    # [puzzle:end]
