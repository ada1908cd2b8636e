"""A temptation: each segment adds its state to all later ones by atomics, in no fixed order.

It saves the prefix kernel, and two runs give different bits. Right for the shapes of `segmented`,
with rounding that depends on which segment was first.
"""

import torch
import triton
import triton.language as tl

from ..normalized import elu_plus_one
from ..state_pass import BLOCK_N, NUM_STAGES, NUM_WARPS
from .segmented import number_of_segments, output


# [atomics:begin]
@triton.jit
def atomic_state_kernel(
    k,  # [heads, N, D] contiguous
    v,  # [heads, N, DV] contiguous
    states,  # [segments, heads, D * DV + D] float32, zeros; added to
    N, share, segments,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Sums one segment of one head, and adds the sum to what came before each later segment."""
    head = tl.program_id(0).to(tl.int64)
    segment = tl.program_id(1)
    first = segment * share
    last = tl.minimum(first + share, N)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, D)
    offs_dv = tl.arange(0, DV)
    k += head * N * D
    v += head * N * DV

    s = tl.zeros([D, DV], dtype=tl.float32)
    z = tl.zeros([D], dtype=tl.float32)
    for n in range(first, last, BLOCK_N):
        rows = n + offs_n
        # [D, BLOCK_N]: transposed by its addresses
        b_kt = tl.load(k + rows[None, :] * D + offs_d[:, None], rows[None, :] < last, 0.0)
        # [BLOCK_N, DV]
        b_v = tl.load(v + rows[:, None] * DV + offs_dv[None, :], rows[:, None] < last, 0.0)
        fkt = tl.where(rows[None, :] < last, elu_plus_one(b_kt), 0.0)  # [D, BLOCK_N] float32
        s = tl.dot(fkt.to(b_v.dtype), b_v, s, input_precision="ieee")
        z += tl.sum(fkt, axis=1)
    for later in range(segment + 1, segments):
        there = states + (later * tl.num_programs(0) + head) * (D * DV + D)
        tl.atomic_add(there + offs_d[:, None] * DV + offs_dv[None, :], s, sem="relaxed")
        tl.atomic_add(there + D * DV + offs_d, z, sem="relaxed")
    # [atomics:end]


def forward(q, k, v, *, segments=None):
    """o [B, H, N, Dv] in q's dtype, from q, k [B, H, N, D] and v [B, H, N, Dv]."""
    B, H, N, D = q.shape
    DV = v.shape[-1]
    segments = segments or number_of_segments(B * H, N, BLOCK_N, q.device)
    share = triton.cdiv(triton.cdiv(N, segments), BLOCK_N) * BLOCK_N
    states = torch.zeros((segments, B * H, D * DV + D), dtype=torch.float32, device=q.device)
    atomic_state_kernel[(B * H, segments)](
        k=k, v=v, states=states, N=N, share=share, segments=segments, D=D, DV=DV,
        BLOCK_N=BLOCK_N, num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
    return output(q, k, v, states, share)
