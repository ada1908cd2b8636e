"""Puzzle: one token for a state that forgets, for all heads at once."""

# What is imported and computed here is for the lines that you write.
# ruff: noqa: F401, F841
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
    # Your lines: load S and z, let them forget, add the token, and store what comes out.
    # Sums over an axis of a block: tl.sum(block, axis=0).
    # [puzzle:end]
