"""Causal linear attention with decay in one kernel, for many heads: `chained.py` with a factor.

G is counted from the first row of a segment. On its way into the state a key is multiplied by
exp(G_C - G_j), which is at most 1. To the queries of its segment it comes with exp(-G_j), and their
exp(G_t) is left out: it stands in the numerator and in the denominator, so that only what is added
to the denominator has to be divided by it.

That takes segments that are *mild*, G not below -60 in base 2. Of a part in which one is not, this
kernel hands on the states, which are right everywhere, and stores the one before the part: from
there `decay_output_kernel` writes its rows.

Source: as `chained.py` and `decay.py`.
"""

import torch
import triton
import triton.language as tl

from . import configs
from .feature_maps import phi_operand, scaled
from .launch import launch

MILD = tl.constexpr(-60.0)  # log2 of what is left after rows, from which on exp2(-G) is safe


# [decay-chained-kernel:begin]
@triton.jit(do_not_specialize_on_alignment=["segments", "in_part"])
def decay_chained_kernel(
    q,  # [B, H, N, D], each head contiguous; D and DV powers of two
    k,  # [B, H // GROUP, N, D], each head contiguous
    v,  # [B, H // GROUP, N, DV], each head contiguous
    sums,  # [B, H // GROUP, N] float32: G inside each segment, base 2
    o,  # [B, H, N, DV] contiguous, written where a part is mild
    states,  # [parts, B * H // GROUP, D * DV + D] float32: what came before, where it is not
    inverse,  # [B, H, N] float32: 1 / (d + eps), written with o if SAVE
    initial,  # [B * H // GROUP, D * DV + D] float32; only if HAS_STATE
    total,  # [B * H // GROUP, D * DV + D] float32: state after the last row, written
    slots,  # [2, B * H, D * DV + D] float32: states on their way
    tickets,  # [1 + B * H] int32, zeros: tickets taken, and segments done of each head
    stride_qb, stride_qh, stride_kb, stride_kh, stride_vb, stride_vh, stride_states,
    N, H, heads, segments, in_part, eps,
    D: tl.constexpr, DV: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr, SEGMENT: tl.constexpr, PART: tl.constexpr,
    FEATURE_MAP: tl.constexpr, HAS_STATE: tl.constexpr, SAVE: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
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
    sums += (batch * (H // GROUP) + hk) * N
    # log2 of what is left after the strongest segment of the part
    part = segment // in_part
    ends = tl.minimum(tl.arange(0, PART) + 1, in_part) + part * in_part
    mild = tl.min(tl.load(sums + tl.minimum(ends * SEGMENT, N) - 1), axis=0) >= MILD
    # from here on, everything is counted from the first row of the segment
    sums += first
    q += batch * stride_qb + h.to(tl.int64) * stride_qh + first * D
    k += batch * stride_kb + hk * stride_kh + first * D
    v += batch * stride_vb + hk * stride_vh + first * DV
    row = (batch * H + h) * N + first
    o += row * DV
    offs_q = offs_n[:, None] * D + offs_d[None, :]
    offs_kt = offs_n[None, :] * D + offs_d[:, None]
    offs_v = offs_n[:, None] * DV + offs_dv[None, :]
    offs_s = offs_d[:, None] * DV + offs_dv[None, :]
    offs_z = D * DV + offs_d[:, None]

    s = tl.zeros([D, DV], dtype=tl.float32)
    z = tl.zeros([D, 1], dtype=tl.float32)
    ones = tl.full([BLOCK_N, 1], 1.0, dtype=OPERAND)  # a sum over rows as a matrix product
    whole = tl.load(sums + rows - 1)  # of the segment
    next_g = tl.load(sums + rows - BLOCK_N + offs_n)  # [BLOCK_N]
    for i in tl.range(0, rows, BLOCK_N, num_stages=3):
        n = rows - BLOCK_N - i
        b_kt = tl.load(k + n * D + offs_kt)  # [D, BLOCK_N]
        b_v = tl.load(v + n * DV + offs_v)  # [BLOCK_N, DV]
        log_g = next_g
        next_g = tl.load(sums + tl.maximum(n - BLOCK_N, 0) + offs_n)  # [BLOCK_N]
        fkt = phi_operand(b_kt, True, 0, FEATURE_MAP, True, OPERAND)
        kept = tl.exp2(tl.minimum(whole - log_g, 0.0))
        fkt = scaled(fkt, kept[None, :], OPERAND)
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
    s += s_before * tl.exp2(whole)
    z += z_before * tl.exp2(whole)
    if segment < segments - 1:
        after = slots + (segment % 2 * heads + head).to(tl.int64) * SIZE
        tl.store(after + offs_s, s)
        tl.store(after + offs_z, z)
        tl.debug_barrier()  # every thread has stored before one of them says so
        tl.atomic_xchg(tickets + 1 + head, segment + 1, sem="release")
    elif h % GROUP == 0:
        after = total + (head // GROUP).to(tl.int64) * SIZE
        tl.store(after + offs_s, s)
        tl.store(after + offs_z, z)
    if (segment % in_part == 0) & (h % GROUP == 0) & (not mild):
        states += part.to(tl.int64) * stride_states
        states += (head // GROUP).to(tl.int64) * SIZE
        tl.store(states + offs_s, s_before)
        tl.store(states + offs_z, z_before)

    if mild:
        s = s_before
        z = z_before
        next_q = tl.load(q + offs_q)  # [BLOCK_N, D]
        next_g = tl.load(sums + offs_n)  # [BLOCK_N]
        for n in tl.range(0, rows, BLOCK_N, num_stages=3):
            # q is fetched a turn ahead into registers: through shared memory, as k and v, it would
            # take the room of the third program
            b_q = next_q
            later = tl.minimum(n + BLOCK_N, rows - BLOCK_N)
            next_q = tl.load(q + later * D + offs_q)  # [BLOCK_N, D]
            b_kt = tl.load(k + n * D + offs_kt)  # [D, BLOCK_N]
            b_v = tl.load(v + n * DV + offs_v)  # [BLOCK_N, DV]
            log_g = next_g
            next_g = tl.load(sums + later + offs_n)  # [BLOCK_N]
            fq = phi_operand(b_q, True, 1, FEATURE_MAP, True, OPERAND)
            fkt = phi_operand(b_kt, True, 0, FEATURE_MAP, True, OPERAND)
            grown = tl.exp2(-log_g)  # 1 / exp(G)
            fkt = scaled(fkt, grown[None, :], OPERAND)
            b_v = b_v.to(OPERAND)

            # first the products that wait for no other one; in this order no register is missing
            d = tl.sum(tl.dot(fq, z.to(OPERAND), input_precision=PRECISION), axis=1)  # [BLOCK_N]
            weights = tl.dot(fq, fkt, input_precision=PRECISION)  # [BLOCK_N, BLOCK_N]
            b_o = tl.dot(fq, s.to(OPERAND), input_precision=PRECISION)  # [BLOCK_N, DV]
            s = tl.dot(fkt, b_v, s, input_precision=PRECISION)
            weights = tl.where(offs_n[:, None] >= offs_n[None, :], weights, 0.0)
            b_o = tl.dot(weights.to(OPERAND), b_v, b_o, input_precision=PRECISION)
            d = 1.0 / (d + tl.sum(weights, axis=1) + eps * grown)
            b_o *= d[:, None]
            if SAVE:
                tl.store(inverse + row + n + offs_n, d * grown)
            tl.store(o + n * DV + offs_v, b_o.to(o.dtype.element_ty))
            z = tl.dot(fkt, ones, z, input_precision=PRECISION)
    # [decay-chained-kernel:end]


def forward(
    q, k, v, sums, states, o, total, inverse, initial, in_part, feature_map, eps
):  # fmt: skip
    """Launches the chain over segments, `in_part` of which are a part; what it writes is given."""
    B, H, N, D = q.shape
    Hk, DV = v.shape[1], v.shape[3]
    segments = configs.cdiv(N, configs.CHAINED.segment)
    slots = q.new_empty((2, B * H, D * DV + D), dtype=torch.float32)
    tickets = q.new_zeros((1 + B * H,), dtype=torch.int32)
    launch(
        decay_chained_kernel, B * H * segments,
        (q, k, v, sums, o, states, inverse, initial, total, slots, tickets),
        (*q.stride()[:2], *k.stride()[:2], *v.stride()[:2]),
        stride_states=states.stride(0), N=N, H=H, heads=B * H, segments=segments, in_part=in_part,
        eps=eps, D=D, DV=DV, GROUP=H // Hk,
        BLOCK_N=configs.CHAINED.rows, SEGMENT=configs.CHAINED.segment, PART=configs.CHAINED.part,
        FEATURE_MAP=feature_map, HAS_STATE=initial is not None,
        SAVE=inverse is not None,
        **configs.OPERANDS[q.dtype], **configs.CHAINED.options(q.device),
    )  # fmt: skip
