"""Linear attention of a short sequence, both orders: everything in one launch.

For a thousand tokens, starting a second kernel takes the GPU and the host about as long as running
it. Here one program does all that its rows need: it sums the state of the keys before them (causal)
or of all keys (bidirectional), keeps it, and writes the outputs of its own rows. The rows of a head
are cut into parts, so that every multiprocessor has a program; what several parts need, each of
them sums again, from the L2 cache and at the same time as the others. That is wasted work, which
grows with the square of the length.

Somewhat longer sequences of few heads share the work (SHARED), still in one launch: the first
programs sum one part of the keys each, the others wait for these sums and write the outputs. A
program may wait only for one that has started, so each takes a ticket when it starts, and the
tickets say who sums: whatever the order in which the GPU starts programs, those who sum have begun
before the first one waits. Longer sequences take two passes.
"""

import torch
import triton
import triton.language as tl

from . import configs
from .bidirectional import dot, load_tile, rows_of, store_tile
from .feature_maps import phi_operand
from .launch import counters, launch


@triton.jit(do_not_specialize_on_alignment=["parts"])
def short_kernel(
    q,  # [B, H, N, D]
    k,  # [B, H // GROUP, M, D]
    v,  # [B, H // GROUP, M, DV]
    o,  # [B, H, N, DV] contiguous, written
    initial,  # [B * H // GROUP, D * DV + D] float32; only if HAS_STATE
    total,  # [B * H // GROUP, D * DV + D] float32: state of all keys, written if KEEP
    states,  # [parts, B * H, D * DV + D] float32: sums of the parts, written; only if SHARED
    counts,  # [1 + B * H] int64: tickets taken and sums written, since ever; only if SHARED
    stride_qb, stride_qh, stride_qn, stride_qd,
    stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd,
    N, M, H, heads, parts, scale, eps,
    D: tl.constexpr, DV: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    CAUSAL: tl.constexpr, FEATURE_MAP: tl.constexpr, NORMALIZE: tl.constexpr, FULL: tl.constexpr,
    HAS_STATE: tl.constexpr, KEEP: tl.constexpr, SHARED: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """S and z of the keys that come first, then o = φ(q) S / (φ(q)·z + eps) of one part's rows."""
    TILES: tl.constexpr = (DV + BLOCK_DV - 1) // BLOCK_DV
    AT_ONCE: tl.constexpr = 4 if BLOCK_D * BLOCK_DV <= 4096 else 1  # states, as registers allow
    if SHARED:
        sums = parts - 1 if CAUSAL else parts  # what comes after the last part nobody needs
        programs = heads * (sums + parts) * TILES
        ticket = tl.atomic_add(counts, 1, sem="relaxed")
        call = ticket // programs  # counts from the first call on: nothing has to be set to zero
        ticket = (ticket % programs).to(tl.int32)
        tile = ticket % TILES
        head = ticket // TILES % heads
        index = ticket // TILES // heads
        adds = index < sums  # whether this program sums a part, or writes outputs
        part = tl.where(adds, index, parts - 1 - (index - sums))
    else:
        tile = tl.program_id(0) % TILES
        part = parts - 1 - tl.program_id(0) // TILES % parts  # causal: the longest first
        head = tl.program_id(0) // TILES // parts
        adds = False
    h = head % H
    batch = (head // H).to(tl.int64)
    first, last = rows_of(0, N, part, parts, BLOCK_N)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    offs_dv = tile * BLOCK_DV + tl.arange(0, BLOCK_DV)
    hk = (h // GROUP).to(tl.int64)
    q += batch * stride_qb + h.to(tl.int64) * stride_qh
    k += batch * stride_kb + hk * stride_kh
    v += batch * stride_vb + hk * stride_vh
    o += (batch * H + h) * N * DV
    offset = (head // GROUP).to(tl.int64) * (D * DV + D)
    offs_s = offs_d[:, None] * DV + offs_dv[None, :]
    offs_z = D * DV + offs_d[:, None]
    keep_s = (offs_d[:, None] < D) & (offs_dv[None, :] < DV)
    keep_z = offs_d[:, None] < D

    if HAS_STATE:
        s = tl.load(initial + offset + offs_s, keep_s & (not adds), 0.0)  # [BLOCK_D, BLOCK_DV]
        z = tl.load(initial + offset + offs_z, keep_z & (not adds), 0.0)  # [BLOCK_D, 1]
    else:
        s = tl.zeros([BLOCK_D, BLOCK_DV], dtype=tl.float32)
        z = tl.zeros([BLOCK_D, 1], dtype=tl.float32)
    ones = tl.full([BLOCK_N, 1], 1.0, dtype=OPERAND)  # a sum over rows as a matrix product
    start = 0
    keys = first if CAUSAL else M
    if SHARED:
        states += head.to(tl.int64) * (D * DV + D)
        stride_states = heads * (D * DV + D)  # few heads; a single one is known to the compiler
        start, keys = rows_of(0, M, part, parts, BLOCK_N)
        if not adds:
            start = keys
            needed = part if CAUSAL else parts
            if needed > 0:
                written = (call + 1) * sums * TILES  # when all sums of this head are
                while tl.atomic_add(counts + 1 + head, 0, sem="acquire") < written:
                    pass
            for i in tl.range(0, needed, num_stages=1, loop_unroll_factor=AT_ONCE):
                here = states + i * stride_states
                # [BLOCK_D, BLOCK_DV] and [BLOCK_D, 1], past the L1 cache (.cg), which may hold
                # what lay here before
                s += tl.load(here + offs_s, keep_s, 0.0, cache_modifier=".cg")
                z += tl.load(here + offs_z, keep_z, 0.0, cache_modifier=".cg")
    for n in range(start, keys, BLOCK_N):
        rows = (n + offs_n).to(tl.int64)
        keep_kt = (offs_d[:, None] < D) & (rows[None, :] < M)
        keep_v = (rows[:, None] < M) & (offs_dv[None, :] < DV)
        # [BLOCK_D, BLOCK_N]
        b_kt = load_tile(k + offs_d[:, None] * stride_kd + rows[None, :] * stride_kn, keep_kt, FULL)
        # [BLOCK_N, BLOCK_DV]
        b_v = load_tile(v + rows[:, None] * stride_vn + offs_dv[None, :] * stride_vd, keep_v, FULL)
        fkt = phi_operand(b_kt, keep_kt, 0, FEATURE_MAP, FULL, OPERAND)
        s = dot(fkt, b_v.to(OPERAND), PRECISION, s)
        z = dot(fkt, ones, PRECISION, z)

    if SHARED:
        if adds:
            tl.store(states + part * stride_states + offs_s, s, keep_s)
            tl.store(states + part * stride_states + offs_z, z, keep_z & (tile == 0))
            tl.debug_barrier()  # every thread has stored before one of them says so
            tl.atomic_add(counts + 1 + head, 1, sem="release")
            first = last  # that was all
    for n in range(first, last, BLOCK_N):
        rows = (n + offs_n).to(tl.int64)
        keep_q = (rows[:, None] < last) & (offs_d[None, :] < D)
        keep_o = (rows[:, None] < last) & (offs_dv[None, :] < DV)
        # [BLOCK_N, BLOCK_D]
        b_q = load_tile(q + rows[:, None] * stride_qn + offs_d[None, :] * stride_qd, keep_q, FULL)
        fq = phi_operand(b_q, keep_q, 1, FEATURE_MAP, FULL, OPERAND)
        b_o = dot(fq, s.to(OPERAND), PRECISION)  # [BLOCK_N, BLOCK_DV]
        d = dot(fq, z.to(OPERAND), PRECISION)  # [BLOCK_N, 1]
        if CAUSAL:  # and the keys of the same block, up to each query's own
            keep_kt = (offs_d[:, None] < D) & (rows[None, :] < last)
            # [BLOCK_D, BLOCK_N]
            b_kt = load_tile(
                k + offs_d[:, None] * stride_kd + rows[None, :] * stride_kn, keep_kt, FULL
            )
            # [BLOCK_N, BLOCK_DV]
            b_v = load_tile(
                v + rows[:, None] * stride_vn + offs_dv[None, :] * stride_vd, keep_o, FULL
            )
            fkt = phi_operand(b_kt, keep_kt, 0, FEATURE_MAP, FULL, OPERAND)
            weights = dot(fq, fkt, PRECISION)  # [BLOCK_N, BLOCK_N]
            weights = tl.where(offs_n[:, None] >= offs_n[None, :], weights, 0.0).to(OPERAND)
            b_o = dot(weights, b_v.to(OPERAND), PRECISION, b_o)
            d = dot(weights, ones, PRECISION, d)
            s = dot(fkt, b_v.to(OPERAND), PRECISION, s)
            z = dot(fkt, ones, PRECISION, z)
        if NORMALIZE:
            d += eps
            b_o *= 1.0 / d
        else:
            b_o *= scale
        store_tile(o + rows[:, None] * DV + offs_dv[None, :], b_o, keep_o, FULL)

    if KEEP:
        once = (part == parts - 1) & (h % GROUP == 0) & (not adds)
        tl.store(total + offset + offs_s, s, keep_s & once)
        tl.store(total + offset + offs_z, z, keep_z & once & (tile == 0))


def forward(q, k, v, initial, is_causal, feature_map, normalize, scale, eps, keep):
    """o and the state of all keys, None unless `keep`; both orders, not packed."""
    B, H, N, D = q.shape
    Hk, M, DV = v.shape[1:]
    tile, parts, shared = configs.short_plan(q, k, v)
    o = q.new_empty((B, H, N, DV))
    total = q.new_empty((B, Hk, D * DV + D), dtype=torch.float32) if keep else None
    states = counts = None
    programs = B * H * parts
    if shared:
        states = q.new_empty((parts, B * H, D * DV + D), dtype=torch.float32)
        counts = counters(1 + B * H, q.device)
        programs += B * H * (parts - is_causal)
    constants = dict(configs.constants(tile, q, DV, feature_map, None))
    constants["FULL"] &= M % tile.rows == 0
    del constants["PACKED"]
    launch(
        short_kernel, programs * configs.cdiv(DV, tile.values),
        (q, k, v, o, initial, total, states, counts), (*q.stride(), *k.stride(), *v.stride()),
        N=N, M=M, H=H, heads=B * H, parts=parts, scale=scale, eps=eps, GROUP=H // Hk,
        CAUSAL=is_causal, NORMALIZE=normalize, HAS_STATE=initial is not None,
        KEEP=keep, SHARED=shared, **constants,
    )  # fmt: skip
    return o, total
