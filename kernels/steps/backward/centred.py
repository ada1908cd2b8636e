"""The pass over the queries with a mean of the values taken out of S before that is rounded.

dφ(q) = (S do - (o·do) z) / d is the difference of two vectors that both grow with the mean of the
values, while their difference does not. Adding the same vector to every value changes no dq, so S
may be replaced by S - z cᵀ for any c. With the c that leaves least of S, Sᵀz / z·z, a mean of the
values, what is rounded to bfloat16 is small. eps is left out of what is taken out: it is to be
small against φ(q)·z, and z is not to be 0.

Right for contiguous q and do, any N, D and Dv powers of two from 16 to 64 (64 for bfloat16).
"""

import triton
import triton.language as tl

from ..normalized import elu_plus_one


# [query-pass:begin]
@triton.jit
def query_kernel(
    q,  # [heads, N, D] contiguous
    do,  # [heads, N, DV] contiguous
    states,  # [heads, D * DV + D] float32
    dq,  # [heads, N, D] contiguous, written
    dstates,  # [parts, heads, D * DV + D] float32, written
    N, share, eps,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dq, and one part's share of dS = Σ φ(q)ᵀ do / d and dz = Σ r φ(q); S is centred first."""
    head = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1).to(tl.int64)
    first = part * share
    last = tl.minimum(first + share, N)  # at or before `first` if the part is empty
    offs_n = tl.arange(0, BLOCK_N).to(tl.int64)
    offs_d = tl.arange(0, D)
    offs_dv = tl.arange(0, DV)
    q += head * N * D
    do += head * N * DV
    dq += head * N * D
    states += head * (D * DV + D)
    dstates += (part * tl.num_programs(0) + head) * (D * DV + D)

    # [DV, D]: S transposed by its addresses
    b_st = tl.load(states + offs_dv[:, None] + offs_d[None, :] * DV)
    b_z = tl.load(states + D * DV + offs_d)  # [D]
    c = tl.sum(b_st * b_z[None, :], axis=1) / tl.sum(b_z * b_z)  # [DV]: a mean of the values
    b_st = (b_st - c[:, None] * b_z[None, :]).to(do.dtype.element_ty)
    b_ds = tl.zeros([D, DV], dtype=tl.float32)
    b_dz = tl.zeros([D], dtype=tl.float32)
    for n in range(first, last, BLOCK_N):
        rows = n + offs_n
        keep = rows[:, None] < last
        # [BLOCK_N, D]
        b_q = tl.load(q + rows[:, None] * D + offs_d[None, :], keep, 0.0)
        # [BLOCK_N, DV]: zeros past the end, so that what φ(0) = 1 gives there counts nothing
        b_do = tl.load(do + rows[:, None] * DV + offs_dv[None, :], keep, 0.0)
        fq = elu_plus_one(b_q)  # [BLOCK_N, D] float32
        a = tl.dot(b_do, b_st, input_precision="ieee")  # [BLOCK_N, D]
        g = 1.0 / (tl.sum(fq * b_z[None, :], axis=1) + eps)  # [BLOCK_N]
        r = -tl.sum(fq * a, axis=1) * g * g  # [BLOCK_N]: the gradient of the denominator
        dfq = a * g[:, None] + r[:, None] * b_z[None, :]
        b_dz += tl.sum(fq * r[:, None], axis=0)
        b_dq = dfq * tl.minimum(fq, 1.0)
        tl.store(dq + rows[:, None] * D + offs_d[None, :], b_dq.to(dq.dtype.element_ty), keep)
        fq_g = (fq * g[:, None]).to(b_do.dtype)
        b_ds = tl.dot(tl.trans(fq_g), b_do, b_ds, input_precision="ieee")
    b_dz -= tl.sum(b_ds * c[None, :], axis=1)  # the keys are not centred
    tl.store(dstates + offs_d[:, None] * DV + offs_dv[None, :], b_ds)
    tl.store(dstates + D * DV + offs_d, b_dz)
    # [query-pass:end]
