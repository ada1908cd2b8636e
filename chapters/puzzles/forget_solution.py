"""Solution of the puzzle `forget`."""

import triton
import triton.language as tl

from kernels.steps.normalized import elu_plus_one


# [puzzle:begin]
@triton.jit
def kernel(
    q,  # [heads, D] contiguous, and k
    k,
    v,  # [heads, DV] contiguous
    before,  # [heads, D * DV + D] float32: S row by row, then z
    after,  # [heads, D * DV + D] float32, to be written: the same after this token
    o,  # [heads, DV] contiguous, to be written
    decay, eps, D: tl.constexpr, DV: tl.constexpr,
):  # fmt: skip
    """S ← decay · S + φ(k) vᵀ, z ← decay · z + φ(k), and then o = φ(q)ᵀ S / (φ(q)·z + eps)."""
    head = tl.program_id(0).to(tl.int64)
    offs_d = tl.arange(0, D)
    offs_dv = tl.arange(0, DV)
    before += head * (D * DV + D)
    after += head * (D * DV + D)
    at_s = offs_d[:, None] * DV + offs_dv[None, :]  # [D, DV]
    at_z = D * DV + offs_d  # [D]
    fq = elu_plus_one(tl.load(q + head * D + offs_d))  # [D] float32
    fk = elu_plus_one(tl.load(k + head * D + offs_d))  # [D] float32
    b_v = tl.load(v + head * DV + offs_dv).to(tl.float32)  # [DV]
    # [D, DV]
    b_s = tl.load(before + at_s)
    # [D]
    b_z = tl.load(before + at_z)
    b_s = decay * b_s + fk[:, None] * b_v[None, :]
    b_z = decay * b_z + fk
    tl.store(after + at_s, b_s)
    tl.store(after + at_z, b_z)
    b_o = tl.sum(fq[:, None] * b_s, axis=0)  # [DV]
    b_o /= tl.sum(fq * b_z, axis=0) + eps
    tl.store(o + head * DV + offs_dv, b_o.to(o.dtype.element_ty))
    # [puzzle:end]
