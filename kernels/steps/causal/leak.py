"""A fault: the mask inside a chunk lets each query see one key too many. `chunked` mends it.

Takes the shapes of `chunked`, and is wrong for all tokens but the last of each chunk.
"""

import torch
import triton
import triton.language as tl

from ..state_pass import BLOCK_N, NUM_STAGES, NUM_WARPS


# [chunked:begin]
@triton.jit
def chunked_kernel(
    q,  # [heads, N, D] contiguous
    k,  # [heads, N, D] contiguous
    v,  # [heads, N, DV] contiguous
    o,  # [heads, N, DV] contiguous, written
    N, scale,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """o for all tokens of one head, BLOCK_N of them at a time."""
    head = tl.program_id(0).to(tl.int64)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, D)
    offs_dv = tl.arange(0, DV)
    q += head * N * D
    k += head * N * D
    v += head * N * DV
    o += head * N * DV

    s = tl.zeros([D, DV], dtype=tl.float32)
    for n in range(0, N, BLOCK_N):
        rows = n + offs_n
        keep = rows[:, None] < N
        # [BLOCK_N, D]
        b_q = tl.load(q + rows[:, None] * D + offs_d[None, :], keep, 0.0)
        # [D, BLOCK_N]: transposed by its addresses
        b_kt = tl.load(k + rows[None, :] * D + offs_d[:, None], rows[None, :] < N, 0.0)
        # [BLOCK_N, DV]
        b_v = tl.load(v + rows[:, None] * DV + offs_dv[None, :], keep, 0.0)

        weights = tl.dot(b_q, b_kt, input_precision="ieee")  # [query, key]
        weights = tl.where(offs_n[:, None] >= offs_n[None, :] - 1, weights, 0.0)
        b_o = tl.dot(b_q, s.to(b_q.dtype), input_precision="ieee")
        b_o = tl.dot(weights.to(b_v.dtype), b_v, b_o, input_precision="ieee")
        b_o = (b_o * scale).to(o.dtype.element_ty)
        tl.store(o + rows[:, None] * DV + offs_dv[None, :], b_o, keep)
        s = tl.dot(b_kt, b_v, s, input_precision="ieee")
    # [chunked:end]


def forward(q, k, v, *, chunk=BLOCK_N):
    """o [B, H, N, Dv] in q's dtype, from q, k [B, H, N, D] and v [B, H, N, Dv]."""
    B, H, N, D = q.shape
    o = torch.empty_like(v)
    chunked_kernel[(B * H,)](
        q=q, k=k, v=v, o=o, N=N, scale=D**-0.5, D=D, DV=v.shape[-1], BLOCK_N=chunk,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
    return o
