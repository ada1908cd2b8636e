"""One token at a time: the state stays on the chip, and nothing is ever multiplied by a matrix.

Right for contiguous q, k and v, any N, D and Dv powers of two up to 128. No φ yet, no normalizer.
"""

import torch
import triton
import triton.language as tl

from ..state_pass import NUM_WARPS


# [recurrent:begin]
@triton.jit
def recurrent_kernel(
    q,  # [heads, N, D] contiguous
    k,  # [heads, N, D] contiguous
    v,  # [heads, N, DV] contiguous
    o,  # [heads, N, DV] contiguous, written
    N, scale,
    D: tl.constexpr, DV: tl.constexpr,
):  # fmt: skip
    """o_t = scale · q_tᵀ S_t with S_t = S_{t-1} + k_t v_tᵀ, for all tokens of one head."""
    head = tl.program_id(0).to(tl.int64)
    offs_d = tl.arange(0, D)
    offs_dv = tl.arange(0, DV)
    q += head * N * D
    k += head * N * D
    v += head * N * DV
    o += head * N * DV

    s = tl.zeros([D, DV], dtype=tl.float32)
    for t in range(0, N):
        b_q = tl.load(q + t * D + offs_d).to(tl.float32)  # [D]
        b_k = tl.load(k + t * D + offs_d).to(tl.float32)  # [D]
        b_v = tl.load(v + t * DV + offs_dv).to(tl.float32)  # [DV]
        s += b_k[:, None] * b_v[None, :]
        b_o = tl.sum(b_q[:, None] * s, axis=0) * scale  # [DV]
        tl.store(o + t * DV + offs_dv, b_o.to(o.dtype.element_ty))
    # [recurrent:end]


def forward(q, k, v):
    """o [B, H, N, Dv] in q's dtype, from q, k [B, H, N, D] and v [B, H, N, Dv]."""
    B, H, N, D = q.shape
    o = torch.empty_like(v)
    recurrent_kernel[(B * H,)](
        q=q, k=k, v=v, o=o, N=N, scale=D**-0.5, D=D, DV=v.shape[-1], num_warps=NUM_WARPS
    )
    return o
