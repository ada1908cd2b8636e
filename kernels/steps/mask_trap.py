"""Masked loads and nothing more: wrong on purpose, since φ of a masked-out key is φ(0) = 1.

Right where `normalized` is, and for other D and Dv up to 64; wrong for N not a multiple of BLOCK_N,
where every row that is not there adds 1 to each feature of z. `masked` is the same, mended.
"""

import functools

import triton
import triton.language as tl

from . import masked
from .normalized import elu_plus_one


# [state-pass:begin]
@triton.jit
def state_kernel(
    k,  # [heads, N, D] contiguous
    v,  # [heads, N, DV] contiguous
    states,  # [heads, D * DV + D] float32, written
    N,
    D: tl.constexpr, DV: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """S = Σ φ(k) vᵀ and z = Σ φ(k) over all rows of one head."""
    head = tl.program_id(0)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    offs_dv = tl.arange(0, BLOCK_DV)
    k += head * N * D
    v += head * N * DV
    states += head * (D * DV + D)

    b_s = tl.zeros([BLOCK_D, BLOCK_DV], dtype=tl.float32)
    b_z = tl.zeros([BLOCK_D], dtype=tl.float32)
    for n in range(0, N, BLOCK_N):
        rows = n + offs_n
        keep_k = (rows[:, None] < N) & (offs_d[None, :] < D)
        keep_v = (rows[:, None] < N) & (offs_dv[None, :] < DV)
        # [BLOCK_N, BLOCK_D]
        b_k = tl.load(k + rows[:, None] * D + offs_d[None, :], keep_k, 0.0)
        # [BLOCK_N, BLOCK_DV]
        b_v = tl.load(v + rows[:, None] * DV + offs_dv[None, :], keep_v, 0.0)
        fk = elu_plus_one(b_k)  # [BLOCK_N, BLOCK_D] float32
        b_z += tl.sum(fk, axis=0)
        b_s = tl.dot(tl.trans(fk.to(b_v.dtype)), b_v, b_s, input_precision="ieee")
    keep_s = (offs_d[:, None] < D) & (offs_dv[None, :] < DV)
    tl.store(states + offs_d[:, None] * DV + offs_dv[None, :], b_s, keep_s)
    tl.store(states + D * DV + offs_d, b_z, offs_d < D)
    # [state-pass:end]


forward = functools.partial(masked.forward, state_kernel=state_kernel)
