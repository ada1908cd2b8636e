"""Masks: any number of rows and any head size, with φ of what is masked out set to zero.

Right for contiguous q, k and v, any N, D and Dv from 1 to 64 (from 33 for bfloat16).
Blocks are powers of two; what of a block lies outside the tensor is neither loaded nor stored.
"""

import torch
import triton
import triton.language as tl

from .normalized import EPS, elu_plus_one
from .state_pass import BLOCK_N, NUM_STAGES, NUM_WARPS

LEAST_BLOCK = 16  # the smallest side of a tile that tl.dot takes


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
        fk = tl.where(keep_k, elu_plus_one(b_k), 0.0)  # [BLOCK_N, BLOCK_D] float32
        b_z += tl.sum(fk, axis=0)
        b_s = tl.dot(tl.trans(fk.to(b_v.dtype)), b_v, b_s, input_precision="ieee")
    keep_s = (offs_d[:, None] < D) & (offs_dv[None, :] < DV)
    tl.store(states + offs_d[:, None] * DV + offs_dv[None, :], b_s, keep_s)
    tl.store(states + D * DV + offs_d, b_z, offs_d < D)
    # [state-pass:end]


# [output-pass:begin]
@triton.jit
def output_kernel(
    q,  # [heads, N, D] contiguous
    states,  # [heads, D * DV + D] float32
    o,  # [heads, N, DV] contiguous, written
    N, eps,
    D: tl.constexpr, DV: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """o = φ(q) S / (φ(q)·z + eps) for one block of rows of one head."""
    head = tl.program_id(0)
    rows = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    offs_dv = tl.arange(0, BLOCK_DV)
    q += head * N * D
    states += head * (D * DV + D)
    o += head * N * DV

    keep_q = (rows[:, None] < N) & (offs_d[None, :] < D)
    keep_s = (offs_d[:, None] < D) & (offs_dv[None, :] < DV)
    keep_o = (rows[:, None] < N) & (offs_dv[None, :] < DV)
    # [BLOCK_N, BLOCK_D]
    b_q = tl.load(q + rows[:, None] * D + offs_d[None, :], keep_q, 0.0)
    # [BLOCK_D, BLOCK_DV]
    b_s = tl.load(states + offs_d[:, None] * DV + offs_dv[None, :], keep_s, 0.0)
    # [BLOCK_D]
    b_z = tl.load(states + D * DV + offs_d, offs_d < D, 0.0)
    fq = elu_plus_one(b_q)  # [BLOCK_N, BLOCK_D] float32; S and z are 0 where φ should be
    b_o = tl.dot(fq.to(b_q.dtype), b_s.to(b_q.dtype), input_precision="ieee")
    b_o /= tl.sum(fq * b_z[None, :], axis=1)[:, None] + eps
    tl.store(o + rows[:, None] * DV + offs_dv[None, :], b_o.to(o.dtype.element_ty), keep_o)
    # [output-pass:end]


def block(size):
    """The least power of two that holds `size`, and that tl.dot takes."""
    return max(LEAST_BLOCK, triton.next_power_of_2(size))


def forward(q, k, v, out=None, *, state_kernel=state_kernel):
    """o [B, H, N, Dv] in q's dtype, float32 or bfloat16; written to `out` if given.

    q, k [B, H, N, D] and v [B, H, N, Dv]; `state_kernel` may be another with the same arguments.
    """
    B, H, N, D = q.shape
    DV = v.shape[-1]
    states = torch.empty((B, H, D * DV + D), dtype=torch.float32, device=q.device)
    o = torch.empty_like(v) if out is None else out
    shape = {"N": N, "D": D, "DV": DV}
    blocks = {"BLOCK_N": BLOCK_N, "BLOCK_D": block(D), "BLOCK_DV": block(DV)}
    compiled = {"num_warps": NUM_WARPS, "num_stages": NUM_STAGES}
    state_kernel[(B * H,)](k=k, v=v, states=states, **shape, **blocks, **compiled)
    output_kernel[(B * H, triton.cdiv(N, BLOCK_N))](
        q=q, states=states, o=o, eps=EPS, **shape, **blocks, **compiled
    )
    return o
