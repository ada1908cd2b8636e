"""Causal linear attention in one kernel, for many heads: k and v come from memory once.

Two passes read k and v twice, and cannot pass two thirds of copy speed. Here a program does both
passes over a short segment of a head, so that the second finds much of k and v in the L2 cache:

    1. sum the segment's own state, last rows first: the rows needed next are then the newest
    2. wait for the state of the segment before, add, hand the sum on
    3. walk the segment as `causal_output_kernel` does

The segments of a head form a chain. A program takes a ticket when it starts, and its ticket says
which segment it works on: the one it waits for has then started before it, whatever the order in
which the GPU starts programs, so the chain always moves. A state lies in one of two slots of its
head; a slot is written again only after its reader has handed on a state of its own. One program
adds to what the one before it left, so the order of all sums is fixed.

Each link costs a round trip through memory, in which every other head has to supply work: few
heads are faster in two passes.

Source: Merrill and Garland, Single-pass Parallel Prefix Scan with Decoupled Look-back, 2016.
"""

import torch
import triton
import triton.language as tl

from . import configs
from .feature_maps import phi_operand
from .launch import launch


# [chained-kernel:begin]
@triton.jit(do_not_specialize_on_alignment=["segments"])
def chained_kernel(
    q,  # [B, H, N, D], each head contiguous; D and DV powers of two
    k,  # [B, H // GROUP, N, D], each head contiguous
    v,  # [B, H // GROUP, N, DV], each head contiguous
    o,  # [B, H, N, DV] contiguous, written
    kept,  # [B * H // GROUP, cdiv(segments, KEPT), D * DV + D] float32, written if SAVE
    initial,  # [B * H // GROUP, D * DV + D] float32; only if HAS_STATE
    total,  # [B * H // GROUP, D * DV + D] float32: state after the last row, written
    slots,  # [2, B * H, D * DV + D] float32: states on their way
    tickets,  # [1 + B * H] int32, zeros: tickets taken, and segments done of each head
    stride_qb, stride_qh, stride_kb, stride_kh, stride_vb, stride_vh,
    N, H, heads, segments, scale, eps,
    D: tl.constexpr, DV: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr, SEGMENT: tl.constexpr, KEPT: tl.constexpr,
    FEATURE_MAP: tl.constexpr, NORMALIZE: tl.constexpr, HAS_STATE: tl.constexpr,
    SAVE: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """o for one segment of the rows of one head; N is a multiple of BLOCK_N."""
    SIZE: tl.constexpr = D * DV + D
    ticket = tl.atomic_add(tickets, 1, sem="relaxed")
    head = ticket % heads
    segment = ticket // heads
    first = (segment * SEGMENT).to(tl.int64)
    rows = tl.minimum(SEGMENT, N - segment * SEGMENT)  # of this segment

    h = head % H
    batch = (head // H).to(tl.int64)
    hk = (h // GROUP).to(tl.int64)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, D)
    offs_dv = tl.arange(0, DV)
    # from here on, everything is counted from the first row of the segment
    q += batch * stride_qb + h.to(tl.int64) * stride_qh + first * D
    k += batch * stride_kb + hk * stride_kh + first * D
    v += batch * stride_vb + hk * stride_vh + first * DV
    o += ((batch * H + h) * N + first) * DV
    offs_q = offs_n[:, None] * D + offs_d[None, :]
    offs_kt = offs_n[None, :] * D + offs_d[:, None]
    offs_v = offs_n[:, None] * DV + offs_dv[None, :]
    offs_s = offs_d[:, None] * DV + offs_dv[None, :]
    offs_z = D * DV + offs_d[:, None]

    s = tl.zeros([D, DV], dtype=tl.float32)
    z = tl.zeros([D, 1], dtype=tl.float32)
    ones = tl.full([BLOCK_N, 1], 1.0, dtype=OPERAND)  # a sum over rows as a matrix product
    for i in tl.range(0, rows, BLOCK_N, num_stages=3):
        n = rows - BLOCK_N - i
        b_kt = tl.load(k + n * D + offs_kt)  # [D, BLOCK_N]
        b_v = tl.load(v + n * DV + offs_v)  # [BLOCK_N, DV]
        fkt = phi_operand(b_kt, True, 0, FEATURE_MAP, True, OPERAND)
        s = tl.dot(fkt, b_v.to(OPERAND), s, input_precision=PRECISION)
        z = tl.dot(fkt, ones, z, input_precision=PRECISION)

    # one link of the chain: what came before, and with this segment's sum what comes after
    if segment > 0:
        while tl.atomic_add(tickets + 1 + head, 0, sem="acquire") < segment:
            pass
        before = slots + ((segment - 1) % 2 * heads + head).to(tl.int64) * SIZE
        # past the L1 cache (.cg), which may hold what lay here two segments ago
        s_before = tl.load(before + offs_s, cache_modifier=".cg")  # [D, DV]
        z_before = tl.load(before + offs_z, cache_modifier=".cg")  # [D, 1]
    elif HAS_STATE:
        before = initial + (head // GROUP).to(tl.int64) * SIZE
        s_before = tl.load(before + offs_s)  # [D, DV]
        z_before = tl.load(before + offs_z)  # [D, 1]
    else:
        s_before = tl.zeros([D, DV], dtype=tl.float32)
        z_before = tl.zeros([D, 1], dtype=tl.float32)
    if segment < segments - 1:
        after = slots + (segment % 2 * heads + head).to(tl.int64) * SIZE
        tl.store(after + offs_s, s_before + s)
        tl.store(after + offs_z, z_before + z)
        tl.debug_barrier()  # every thread has stored before one of them says so
        tl.atomic_xchg(tickets + 1 + head, segment + 1, sem="release")
    elif h % GROUP == 0:
        after = total + (head // GROUP).to(tl.int64) * SIZE
        tl.store(after + offs_s, s_before + s)
        tl.store(after + offs_z, z_before + z)

    if SAVE:
        if (segment % KEPT == 0) & (h % GROUP == 0):
            kept += (head // GROUP * tl.cdiv(segments, KEPT) + segment // KEPT).to(tl.int64) * SIZE
            tl.store(kept + offs_s, s_before)
            tl.store(kept + offs_z, z_before)

    s = s_before
    z = z_before
    next_q = tl.load(q + offs_q)  # [BLOCK_N, D]
    for n in tl.range(0, rows, BLOCK_N, num_stages=3):
        # q is fetched a turn ahead into registers: through shared memory, as k and v, it would
        # take the room of the third program
        b_q = next_q
        next_q = tl.load(q + tl.minimum(n + BLOCK_N, rows - BLOCK_N) * D + offs_q)  # [BLOCK_N, D]
        b_kt = tl.load(k + n * D + offs_kt)  # [D, BLOCK_N]
        b_v = tl.load(v + n * DV + offs_v)  # [BLOCK_N, DV]
        fq = phi_operand(b_q, True, 1, FEATURE_MAP, True, OPERAND)
        fkt = phi_operand(b_kt, True, 0, FEATURE_MAP, True, OPERAND)
        b_v = b_v.to(OPERAND)

        # first the products that wait for no other one, so that they are under way together
        b_o = tl.dot(fq, s.to(OPERAND), input_precision=PRECISION)  # [BLOCK_N, DV]
        weights = tl.dot(fq, fkt, input_precision=PRECISION)  # [BLOCK_N, BLOCK_N]
        s = tl.dot(fkt, b_v, s, input_precision=PRECISION)
        weights = tl.where(offs_n[:, None] >= offs_n[None, :], weights, 0.0)
        b_o = tl.dot(weights.to(OPERAND), b_v, b_o, input_precision=PRECISION)
        if NORMALIZE:
            d = tl.sum(tl.dot(fq, z.to(OPERAND), input_precision=PRECISION), axis=1)  # [BLOCK_N]
            d += tl.sum(weights, axis=1) + eps
            b_o *= (1.0 / d)[:, None]
        else:
            b_o *= scale
        tl.store(o + n * DV + offs_v, b_o.to(o.dtype.element_ty))
        z = tl.dot(fkt, ones, z, input_precision=PRECISION)
    # [chained-kernel:end]


def forward(q, k, v, initial, feature_map, normalize, scale, eps, save):
    """As `causal.forward`, for what `configs.chained_is_faster` admits."""
    B, H, N, D = q.shape
    Hk, DV = v.shape[1], v.shape[3]
    segments = configs.cdiv(N, configs.CHAINED.segment)
    o = q.new_empty((B, H, N, DV))
    count = configs.cdiv(segments, configs.CHAINED.kept)
    kept = q.new_empty((B, Hk, count, D * DV + D), dtype=torch.float32) if save else None
    total = q.new_empty((B, Hk, D * DV + D), dtype=torch.float32)
    slots = q.new_empty((2, B * H, D * DV + D), dtype=torch.float32)
    tickets = q.new_zeros((1 + B * H,), dtype=torch.int32)
    launch(
        chained_kernel, B * H * segments,
        (q, k, v, o, kept, initial, total, slots, tickets),
        (*q.stride()[:2], *k.stride()[:2], *v.stride()[:2]),
        N=N, H=H, heads=B * H, segments=segments, scale=scale, eps=eps,
        D=D, DV=DV, GROUP=H // Hk,
        BLOCK_N=configs.CHAINED.rows, SEGMENT=configs.CHAINED.segment, KEPT=configs.CHAINED.kept,
        FEATURE_MAP=feature_map, NORMALIZE=normalize, HAS_STATE=initial is not None, SAVE=save,
        **configs.OPERANDS[q.dtype], **configs.CHAINED.options(q.device),
    )  # fmt: skip
    return o, total, kept
