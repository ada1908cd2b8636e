"""One launch: a segment waits for the state of the one before, and hands its own on.

k and v are read twice here too, but the second time soon after the first, so that the L2 may still
have them. A program takes a ticket when it starts, which says what it works on; then whoever it
waits for has started before it. Two slots for each head hold the states on their way: a slot is
written again only after its reader has handed on a state of its own.

Right for contiguous q, k and v, any N, D and Dv powers of two from 16 to 64 (64 for bfloat16).

Source: Merrill and Garland, Single-pass Parallel Prefix Scan with Decoupled Look-back, 2016.
"""

import torch
import triton
import triton.language as tl

from ..normalized import EPS, elu_plus_one
from ..state_pass import BLOCK_N, NUM_STAGES, NUM_WARPS

SEGMENT = 512  # tokens of one link of the chain


# [link:begin]
@triton.jit
def link_kernel(
    q,  # [heads, N, D] contiguous
    k,  # [heads, N, D] contiguous
    v,  # [heads, N, DV] contiguous
    o,  # [heads, N, DV] contiguous, written
    slots,  # [2, heads, D * DV + D] float32: states on their way
    tickets,  # [1 + heads] int32, zeros: tickets taken, and segments done of each head
    N, heads, share, eps,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """o for one segment, `share` tokens, of one head."""
    ticket = tl.atomic_add(tickets, 1, sem="relaxed")
    head = (ticket % heads).to(tl.int64)
    segment = ticket // heads  # the segments of a head are `heads` tickets apart
    first = segment * share
    last = tl.minimum(first + share, N)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, D)
    offs_dv = tl.arange(0, DV)
    offs_s = offs_d[:, None] * DV + offs_dv[None, :]
    q += head * N * D
    k += head * N * D
    v += head * N * DV
    o += head * N * DV

    # the sum of this segment
    own_s = tl.zeros([D, DV], dtype=tl.float32)
    own_z = tl.zeros([D], dtype=tl.float32)
    for n in range(first, last, BLOCK_N):
        rows = n + offs_n
        # [D, BLOCK_N]: transposed by its addresses
        b_kt = tl.load(k + rows[None, :] * D + offs_d[:, None], rows[None, :] < last, 0.0)
        # [BLOCK_N, DV]
        b_v = tl.load(v + rows[:, None] * DV + offs_dv[None, :], rows[:, None] < last, 0.0)
        fkt = elu_plus_one(b_kt)  # [D, BLOCK_N] float32
        own_s = tl.dot(fkt.to(b_v.dtype), b_v, own_s, input_precision="ieee")
        own_z += tl.sum(fkt, axis=1)

    # one link: take over what came before, hand on what comes after
    s = tl.zeros([D, DV], dtype=tl.float32)
    z = tl.zeros([D], dtype=tl.float32)
    if segment > 0:
        while tl.atomic_add(tickets + 1 + head, 0, sem="acquire") < segment:
            pass
        slot = slots + ((segment - 1) % 2 * heads + head) * (D * DV + D)
        # past the L1 cache (.cg), which may hold what lay here two segments ago
        s = tl.load(slot + offs_s, cache_modifier=".cg")  # [D, DV]
        z = tl.load(slot + D * DV + offs_d, cache_modifier=".cg")  # [D]
    slot = slots + (segment % 2 * heads + head) * (D * DV + D)
    tl.store(slot + offs_s, s + own_s)
    tl.store(slot + D * DV + offs_d, z + own_z)
    tl.debug_barrier()  # every thread has stored before one of them says so
    tl.atomic_xchg(tickets + 1 + head, segment + 1, sem="release")

    # the output, as in `segmented`
    for n in range(first, last, BLOCK_N):
        rows = n + offs_n
        keep = rows[:, None] < last
        # [BLOCK_N, D]
        b_q = tl.load(q + rows[:, None] * D + offs_d[None, :], keep, 0.0)
        # [D, BLOCK_N]: transposed by its addresses
        b_kt = tl.load(k + rows[None, :] * D + offs_d[:, None], rows[None, :] < last, 0.0)
        # [BLOCK_N, DV]
        b_v = tl.load(v + rows[:, None] * DV + offs_dv[None, :], keep, 0.0)
        fq = elu_plus_one(b_q)  # [BLOCK_N, D] float32
        fkt = elu_plus_one(b_kt)  # [D, BLOCK_N] float32
        b_fq, b_fkt = fq.to(b_q.dtype), fkt.to(b_q.dtype)

        weights = tl.dot(b_fq, b_fkt, input_precision="ieee")  # [query, key]
        weights = tl.where(offs_n[:, None] >= offs_n[None, :], weights, 0.0)
        b_o = tl.dot(b_fq, s.to(b_q.dtype), input_precision="ieee")
        b_o = tl.dot(weights.to(b_v.dtype), b_v, b_o, input_precision="ieee")
        d = tl.sum(fq * z[None, :], axis=1) + tl.sum(weights, axis=1)  # [BLOCK_N]
        b_o = (b_o / (d + eps)[:, None]).to(o.dtype.element_ty)
        tl.store(o + rows[:, None] * DV + offs_dv[None, :], b_o, keep)
        s = tl.dot(b_fkt, b_v, s, input_precision="ieee")
        z += tl.sum(fkt, axis=1)
    # [link:end]


def forward(q, k, v, *, segment=SEGMENT):
    """o [B, H, N, Dv] in q's dtype, from q, k [B, H, N, D] and v [B, H, N, Dv].

    `segment`, the tokens of a link, is a multiple of BLOCK_N.
    """
    B, H, N, D = q.shape
    DV, heads = v.shape[-1], B * H
    o = torch.empty_like(v)
    slots = torch.empty((2, heads, D * DV + D), dtype=torch.float32, device=q.device)
    tickets = torch.zeros(1 + heads, dtype=torch.int32, device=q.device)
    link_kernel[(heads * triton.cdiv(N, segment),)](
        q=q, k=k, v=v, o=o, slots=slots, tickets=tickets, N=N, heads=heads, share=segment, eps=EPS,
        D=D, DV=DV, BLOCK_N=BLOCK_N, num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
    return o
