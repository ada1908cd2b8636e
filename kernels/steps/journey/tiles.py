"""Step 4: a tile of rows at a time, and matrix products in place of outer products.

Products are float32, on the same units as any addition. Right for contiguous inputs, N a multiple
of BLOCK_N, D and Dv powers of two from 16 on. Nothing is checked: other shapes read and write
outside their tensors.
"""

import torch
import triton
import triton.language as tl

from .rows import NUM_WARPS
from .whole_tensors import denominator, phi

BLOCK_N = 64  # rows of a tile


# [kernel:begin]
@triton.jit
def attention_kernel(
    fq,  # [heads, N, D] contiguous, φ(q)
    fk,  # [heads, N, D] contiguous, φ(k)
    v,  # [heads, N, DV] contiguous
    o,  # [heads, N, DV] contiguous, written
    N, D: tl.constexpr, DV: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """o = φ(q) Σ φ(k) vᵀ for one head."""
    head = tl.program_id(0).to(tl.int64)
    offs_n = tl.arange(0, BLOCK_N)[:, None]
    offs_d = tl.arange(0, D)[None, :]
    offs_dv = tl.arange(0, DV)[None, :]
    fq += head * N * D
    fk += head * N * D
    v += head * N * DV
    o += head * N * DV

    b_s = tl.zeros([D, DV], dtype=tl.float32)
    for n in range(0, N, BLOCK_N):
        # [BLOCK_N, D]
        b_k = tl.load(fk + (n + offs_n) * D + offs_d).to(tl.float32)
        # [BLOCK_N, DV]
        b_v = tl.load(v + (n + offs_n) * DV + offs_dv).to(tl.float32)
        b_s = tl.dot(tl.trans(b_k), b_v, b_s, input_precision="ieee")
    for n in range(0, N, BLOCK_N):
        # [BLOCK_N, D]
        b_q = tl.load(fq + (n + offs_n) * D + offs_d).to(tl.float32)
        b_o = tl.dot(b_q, b_s, input_precision="ieee")  # [BLOCK_N, DV]
        tl.store(o + (n + offs_n) * DV + offs_dv, b_o.to(o.dtype.element_ty))
    # [kernel:end]


def forward(q, k, v, out=None):
    """o [B, H, N, Dv] of q, k [B, H, N, D] and v [B, H, N, Dv]; written to `out` if given."""
    B, H, N, D = q.shape
    fq, fk = phi(q), phi(k)
    o = torch.empty_like(v) if out is None else out
    attention_kernel[(B * H,)](
        fq=fq, fk=fk, v=v, o=o, N=N, D=D, DV=v.shape[-1], BLOCK_N=BLOCK_N, num_warps=NUM_WARPS
    )
    return o.div_(denominator(fq, fk))
