"""The second kernel: o = scale · q S, one program for each block of rows.

Right for the same shapes as the state pass, and for N queries to the N keys.
Nothing is checked: other shapes read and write outside their tensors.
"""

import torch
import triton
import triton.language as tl

from .state_pass import BLOCK_N, NUM_STAGES, NUM_WARPS, state


# [output-pass:begin]
@triton.jit
def output_kernel(
    q,  # [heads, N, D] contiguous
    s,  # [heads, D, DV] float32
    o,  # [heads, N, DV] contiguous, written
    N, scale,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """o = scale · q S for one block of rows of one head."""
    head = tl.program_id(0)
    rows = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, D)
    offs_dv = tl.arange(0, DV)
    q += head * N * D
    s += head * D * DV
    o += head * N * DV

    # [BLOCK_N, D]
    b_q = tl.load(q + rows[:, None] * D + offs_d[None, :])
    # [D, DV]
    b_s = tl.load(s + offs_d[:, None] * DV + offs_dv[None, :])
    b_o = tl.dot(b_q, b_s.to(b_q.dtype), input_precision="ieee") * scale
    tl.store(o + rows[:, None] * DV + offs_dv[None, :], b_o.to(o.dtype.element_ty))
    # [output-pass:end]


# [output-launch:begin]
def forward(q, k, v, out=None):
    """o [B, H, N, Dv] = q (kᵀ v) / √D, in two passes; written to `out` if given."""
    B, H, N, D = q.shape
    DV = v.shape[-1]
    o = torch.empty_like(v) if out is None else out
    output_kernel[(B * H, triton.cdiv(N, BLOCK_N))](
        q=q, s=state(k, v), o=o, N=N, scale=D**-0.5, D=D, DV=DV, BLOCK_N=BLOCK_N,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
    return o
    # [output-launch:end]
