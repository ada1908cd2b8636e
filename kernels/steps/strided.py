"""Strides: q, k and v may lie in memory in any way, and offsets are counted in 64 bits.

Right for any strides and any N, D and Dv from 1 to 64 (from 33 for bfloat16), also where an offset
passes 2³¹.
"""

import torch
import triton
import triton.language as tl

from .masked import block
from .normalized import EPS, elu_plus_one
from .state_pass import BLOCK_N, NUM_STAGES, NUM_WARPS


# [state-pass:begin]
@triton.jit
def state_kernel(
    k,  # [B, H, N, D]
    v,  # [B, H, N, DV]
    states,  # [B * H, D * DV + D] float32, written
    stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd,
    N, H,
    D: tl.constexpr, DV: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """S = Σ φ(k) vᵀ and z = Σ φ(k) over all rows of one head."""
    head = tl.program_id(0).to(tl.int64)
    offs_n = tl.arange(0, BLOCK_N).to(tl.int64)
    offs_d = tl.arange(0, BLOCK_D).to(tl.int64)
    offs_dv = tl.arange(0, BLOCK_DV).to(tl.int64)
    k += head // H * stride_kb + head % H * stride_kh
    v += head // H * stride_vb + head % H * stride_vh
    states += head * (D * DV + D)

    b_s = tl.zeros([BLOCK_D, BLOCK_DV], dtype=tl.float32)
    b_z = tl.zeros([BLOCK_D], dtype=tl.float32)
    for n in range(0, N, BLOCK_N):
        rows = n + offs_n
        keep_k = (rows[:, None] < N) & (offs_d[None, :] < D)
        keep_v = (rows[:, None] < N) & (offs_dv[None, :] < DV)
        # [BLOCK_N, BLOCK_D]
        b_k = tl.load(k + rows[:, None] * stride_kn + offs_d[None, :] * stride_kd, keep_k, 0.0)
        # [BLOCK_N, BLOCK_DV]
        b_v = tl.load(v + rows[:, None] * stride_vn + offs_dv[None, :] * stride_vd, keep_v, 0.0)
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
    q,  # [B, H, N, D]
    states,  # [B * H, D * DV + D] float32
    o,  # [B, H, N, DV] contiguous, written
    stride_qb, stride_qh, stride_qn, stride_qd,
    N, H, eps,
    D: tl.constexpr, DV: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """o = φ(q) S / (φ(q)·z + eps) for one block of rows of one head."""
    head = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D).to(tl.int64)
    offs_dv = tl.arange(0, BLOCK_DV)
    q += head // H * stride_qb + head % H * stride_qh
    states += head * (D * DV + D)
    o += head * N * DV

    keep_q = (rows[:, None] < N) & (offs_d[None, :] < D)
    keep_s = (offs_d[:, None] < D) & (offs_dv[None, :] < DV)
    keep_o = (rows[:, None] < N) & (offs_dv[None, :] < DV)
    # [BLOCK_N, BLOCK_D]
    b_q = tl.load(q + rows[:, None] * stride_qn + offs_d[None, :] * stride_qd, keep_q, 0.0)
    # [BLOCK_D, BLOCK_DV]
    b_s = tl.load(states + offs_d[:, None] * DV + offs_dv[None, :], keep_s, 0.0)
    # [BLOCK_D]
    b_z = tl.load(states + D * DV + offs_d, offs_d < D, 0.0)
    fq = elu_plus_one(b_q)  # [BLOCK_N, BLOCK_D] float32; S and z are 0 where φ should be
    b_o = tl.dot(fq.to(b_q.dtype), b_s.to(b_q.dtype), input_precision="ieee")
    b_o /= tl.sum(fq * b_z[None, :], axis=1)[:, None] + eps
    tl.store(o + rows[:, None] * DV + offs_dv[None, :], b_o.to(o.dtype.element_ty), keep_o)
    # [output-pass:end]


def forward(q, k, v, out=None):
    """o [B, H, N, Dv] in q's dtype, float32 or bfloat16; written to `out` if given.

    q, k [B, H, N, D] and v [B, H, N, Dv], any strides; `out` is contiguous.
    """
    B, H, N, D = q.shape
    DV = v.shape[-1]
    states = torch.empty((B * H, D * DV + D), dtype=torch.float32, device=q.device)
    state_kernel[(B * H,)](
        k, v, states, *k.stride(), *v.stride(), N=N, H=H, D=D, DV=DV,
        BLOCK_N=BLOCK_N, BLOCK_D=block(D), BLOCK_DV=block(DV),
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
    return output(q, states, DV, out)


def output(q, states, DV, out=None):
    """o [B, H, N, DV] from q [B, H, N, D] and states [B * H, D * DV + D] float32."""
    B, H, N, D = q.shape
    o = torch.empty((B, H, N, DV), dtype=q.dtype, device=q.device) if out is None else out
    output_kernel[(B * H, triton.cdiv(N, BLOCK_N))](
        q, states, o, *q.stride(), N=N, H=H, eps=EPS, D=D, DV=DV,
        BLOCK_N=BLOCK_N, BLOCK_D=block(D), BLOCK_DV=block(DV),
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
    return o
