"""The pass over the keys, once dS and dz are known. With the normalizer or without, it is the same.

Right for contiguous k and v, any N, D and Dv powers of two from 16 to 64 (64 for bfloat16).
"""

import triton
import triton.language as tl

from ..normalized import elu_plus_one


# [key-pass:begin]
@triton.jit
def key_kernel(
    k,  # [heads, N, D] contiguous
    v,  # [heads, N, DV] contiguous
    dstates,  # [heads, D * DV + D] float32
    dk,  # [heads, N, D] contiguous, written
    dv,  # [heads, N, DV] contiguous, written
    N,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """dφ(k) = v dSᵀ + dz and dv = φ(k) dS for one block of rows of one head."""
    head = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, D)
    offs_dv = tl.arange(0, DV)
    at_k = head * N * D + rows[:, None] * D + offs_d[None, :]
    at_v = head * N * DV + rows[:, None] * DV + offs_dv[None, :]
    keep = rows[:, None] < N
    dstates += head * (D * DV + D)

    # [BLOCK_N, D]
    b_k = tl.load(k + at_k, keep, 0.0)
    # [BLOCK_N, DV]
    b_v = tl.load(v + at_v, keep, 0.0)
    # [D, DV], and [DV, D]: both ways round, from memory
    b_ds = tl.load(dstates + offs_d[:, None] * DV + offs_dv[None, :]).to(b_v.dtype)
    b_dst = tl.load(dstates + offs_dv[:, None] + offs_d[None, :] * DV).to(b_v.dtype)
    b_dz = tl.load(dstates + D * DV + offs_d)  # [D]
    fk = elu_plus_one(b_k)  # [BLOCK_N, D] float32
    dfk = tl.dot(b_v, b_dst, input_precision="ieee") + b_dz[None, :]
    b_dv = tl.dot(fk.to(b_v.dtype), b_ds, input_precision="ieee")
    b_dk = dfk * tl.minimum(fk, 1.0)
    tl.store(dk + at_k, b_dk.to(dk.dtype.element_ty), keep)
    tl.store(dv + at_v, b_dv.to(dv.dtype.element_ty), keep)
    # [key-pass:end]
