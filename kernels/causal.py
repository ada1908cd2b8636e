"""Causal linear attention: a query sees the keys up to its own position.

The sum S_t = Σ_{j ≤ t} φ(k_j) v_jᵀ now depends on t, so the rows are visited in order, a chunk at
a time: between chunks through the state, inside a chunk through the C × C matrix of weights.

    o_c = φ(q_c) S + (φ(q_c) φ(k_c)ᵀ ∘ mask) v_c,    then    S += φ(k_c)ᵀ v_c

All of it is computed transposed: Sᵀ [DV, D] then is the left operand of its products, which the
tensor cores take from registers, and never has to pass through shared memory.

One program walks the chunks of one part of a head. With more than one part, `state_kernel` first
sums each part and `combine_kernel` turns the sums into what came before each part.

Backward: the derivative of φ(q_t) needs S_t (walked first to last), that of k_j and v_j needs
dS_j = Σ_{t ≥ j} φ(q_t)ᵀ do_t / d_t (walked last to first). A mean of all values is taken out, as
`bidirectional` does.

Source: Katharopoulos et al., Transformers are RNNs, 2020; chunks: Hua et al., Transformer Quality
in Linear Time, 2022; parts of a sequence: Yang et al., Gated Linear Attention, 2024.
"""

import torch
import triton
import triton.language as tl

from . import chained, configs
from .bidirectional import (
    add_tiles,
    dot,
    launch_combine,
    launch_state,
    load_tile,
    mean_of_values,
    rows_of,
    sequence_of,
    shift,
    store_tile,
    sum_tiles,
    tiles_of,
)
from .feature_maps import phi_backward, phi_operand
from .launch import launch


# [causal-output-kernel:begin]
@triton.jit(do_not_specialize_on_alignment=["parts"])
def causal_output_kernel(
    q,  # [B, H, N, D]
    k,  # [B, H // GROUP, N, D]
    v,  # [B, H // GROUP, N, DV]
    o,  # [B, H, N, DV] contiguous, written
    states,  # [parts, B * H // GROUP, D * DV + D] float32: what came before; only if HAS_STATE
    total,  # [B * H // GROUP, D * DV + D] float32: state after the last part, written
    cu_seqlens,  # [B + 1] int32; only if PACKED
    stride_qb, stride_qh, stride_qn, stride_qd,
    stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd,
    stride_states, N, H, parts, scale, eps,
    D: tl.constexpr, DV: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    FEATURE_MAP: tl.constexpr, NORMALIZE: tl.constexpr, PACKED: tl.constexpr, FULL: tl.constexpr,
    HAS_STATE: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """o for one part of the rows of one head, chunk by chunk."""
    TILES: tl.constexpr = (DV + BLOCK_DV - 1) // BLOCK_DV
    tile = tl.program_id(0) % TILES
    part = tl.program_id(0) // TILES % parts
    head = tl.program_id(0) // TILES // parts
    h = head % H
    start, end, batch = sequence_of(cu_seqlens, head // H, N, PACKED)
    first, last = rows_of(start, end, part, parts, BLOCK_N)

    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    offs_dv = tile * BLOCK_DV + tl.arange(0, BLOCK_DV)
    # what the tile of each tensor adds to the address of its first row
    offs_q = offs_n[:, None].to(tl.int64) * stride_qn + offs_d[None, :] * stride_qd
    offs_k = offs_n[:, None].to(tl.int64) * stride_kn + offs_d[None, :] * stride_kd
    offs_vt = offs_dv[:, None].to(tl.int64) * stride_vd + offs_n[None, :].to(tl.int64) * stride_vn
    offs_ot = offs_dv[:, None] + offs_n[None, :] * DV
    hk = (h // GROUP).to(tl.int64)
    q += batch * stride_qb + h.to(tl.int64) * stride_qh
    k += batch * stride_kb + hk * stride_kh
    v += batch * stride_vb + hk * stride_vh
    o += (batch * H + h) * N * DV
    offset = (head // GROUP).to(tl.int64) * (D * DV + D)

    keep_st = (offs_dv[:, None] < DV) & (offs_d[None, :] < D)
    if HAS_STATE:
        states += part.to(tl.int64) * stride_states + offset
        # [BLOCK_DV, BLOCK_D]
        st = tl.load(states + offs_dv[:, None] + offs_d[None, :] * DV, keep_st, 0.0)
        z = tl.load(states + D * DV + offs_d, offs_d < D, 0.0)[None, :]  # [1, BLOCK_D]
    else:
        st = tl.zeros([BLOCK_DV, BLOCK_D], dtype=tl.float32)
        z = tl.zeros([1, BLOCK_D], dtype=tl.float32)
    ones = tl.full([1, BLOCK_N], 1.0, dtype=OPERAND)  # a sum over rows as a matrix product
    for n in range(first, last, BLOCK_N):
        at = tl.cast(n, tl.int64)
        rows = at + offs_n
        keep_q = (rows[:, None] < last) & (offs_d[None, :] < D)
        keep_vt = (offs_dv[:, None] < DV) & (rows[None, :] < last)
        # [BLOCK_N, BLOCK_D]
        b_q = load_tile(q + at * stride_qn + offs_q, keep_q, FULL)
        # [BLOCK_N, BLOCK_D]
        b_k = load_tile(k + at * stride_kn + offs_k, keep_q, FULL)
        # [BLOCK_DV, BLOCK_N]
        b_vt = load_tile(v + at * stride_vn + offs_vt, keep_vt, FULL).to(OPERAND)
        fqt = tl.trans(phi_operand(b_q, keep_q, 1, FEATURE_MAP, FULL, OPERAND))
        fk = phi_operand(b_k, keep_q, 1, FEATURE_MAP, FULL, OPERAND)

        # first the products that wait for no other one, so that they are under way together
        weights = dot(fk, fqt, PRECISION)  # [key, query]
        b_ot = dot(st.to(OPERAND), fqt, PRECISION)  # [BLOCK_DV, BLOCK_N]
        st = dot(b_vt, fk, PRECISION, st)
        d = dot(z.to(OPERAND), fqt, PRECISION)  # [1, BLOCK_N]
        z = dot(ones, fk, PRECISION, z)
        weights = tl.where(offs_n[:, None] <= offs_n[None, :], weights, 0.0).to(OPERAND)
        b_ot = dot(b_vt, weights, PRECISION, b_ot)
        if NORMALIZE:
            d = dot(ones, weights, PRECISION, d)
            d = tl.sum(d, axis=0) + eps  # [BLOCK_N]
            b_ot *= (1.0 / d)[None, :]
        else:
            b_ot *= scale
        store_tile(o + at * DV + offs_ot, b_ot, keep_vt, FULL)

    once = (part == parts - 1) & (h % GROUP == 0)
    total += offset
    tl.store(total + offs_dv[:, None] + offs_d[None, :] * DV, st, keep_st & once)
    tl.store(total + D * DV + offs_d, tl.sum(z, axis=0), (offs_d < D) & once & (tile == 0))
    # [causal-output-kernel:end]


# [causal-backward-query-kernel:begin]
@triton.jit(do_not_specialize_on_alignment=["parts"])
def causal_backward_query_kernel(
    q,  # [B, H, N, D]
    k,  # [B, H // GROUP, N, D]
    v,  # [B, H // GROUP, N, DV]
    do,  # [B, H, N, DV]
    states,  # [parts, B * H // GROUP, D * DV + D] float32: what came before; only if HAS_STATE
    dq,  # [tiles, B, H, N, D] contiguous, written
    mean,  # [B, H // GROUP, DV] float32: c; only if NORMALIZE
    g,  # [B, H, N] float32, written if NORMALIZE: 1 / d
    r,  # [tiles, B, H, N] float32, written if NORMALIZE: -do·(o - c)
    cu_seqlens,  # [B + 1] int32; only if PACKED
    stride_qb, stride_qh, stride_qn, stride_qd,
    stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd,
    stride_ob, stride_oh, stride_on, stride_od,
    stride_states, stride_head, stride_dq, stride_r, N, H, parts, scale, eps,
    D: tl.constexpr, DV: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    FEATURE_MAP: tl.constexpr, NORMALIZE: tl.constexpr, PACKED: tl.constexpr, FULL: tl.constexpr,
    HAS_STATE: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dφ(q_t) = (S_t do_t + r_t z_t) / d_t with r_t = -do_t·o_t = -φ(q_t)·(S_t do_t) / d_t.

    S_t sums the values less c, a mean of theirs over all rows, and in r_t o_t is less c: this
    changes nothing but how much there is to round. The state is carried transposed, so that no
    product needs a transposed accumulator.
    """
    TILES: tl.constexpr = (DV + BLOCK_DV - 1) // BLOCK_DV
    tile = tl.program_id(0) % TILES
    part = tl.program_id(0) // TILES % parts
    head = tl.program_id(0) // TILES // parts
    h = head % H
    start, end, batch = sequence_of(cu_seqlens, head // H, N, PACKED)
    first, last = rows_of(start, end, part, parts, BLOCK_N)

    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    offs_dv = tile * BLOCK_DV + tl.arange(0, BLOCK_DV)
    hk = (h // GROUP).to(tl.int64)
    q += batch * stride_qb + h.to(tl.int64) * stride_qh
    k += batch * stride_kb + hk * stride_kh
    v += batch * stride_vb + hk * stride_vh
    do += batch * stride_ob + h.to(tl.int64) * stride_oh
    dq += tile.to(tl.int64) * stride_dq + (batch * H + h) * N * D

    if HAS_STATE:
        states += part.to(tl.int64) * stride_states
        states += (head // GROUP).to(tl.int64) * stride_head
        keep_st = (offs_dv[:, None] < DV) & (offs_d[None, :] < D)
        # [BLOCK_DV, BLOCK_D]
        st = tl.load(states + offs_dv[:, None] + offs_d[None, :] * DV, keep_st, 0.0)
        z = tl.load(states + D * DV + offs_d, offs_d < D, 0.0)[None, :]  # [1, BLOCK_D]
    else:
        st = tl.zeros([BLOCK_DV, BLOCK_D], dtype=tl.float32)
        z = tl.zeros([1, BLOCK_D], dtype=tl.float32)
    if NORMALIZE:
        mean += (head // GROUP).to(tl.int64) * DV
        c = tl.load(mean + offs_dv, offs_dv < DV, 0.0)  # [BLOCK_DV]
        c_column = c[:, None].to(OPERAND)
        st -= c[:, None] * z
    seen = offs_n[:, None] >= offs_n[None, :]  # [query, key]
    ones = tl.full([1, BLOCK_N], 1.0, dtype=OPERAND)  # a sum over rows as a matrix product
    for n in range(first, last, BLOCK_N):
        rows = (n + offs_n).to(tl.int64)
        row = (batch * H + h) * N + rows
        keep_q = (rows[:, None] < last) & (offs_d[None, :] < D)
        keep_v = (rows[:, None] < last) & (offs_dv[None, :] < DV)
        keep_vt = (offs_dv[:, None] < DV) & (rows[None, :] < last)
        # [BLOCK_N, BLOCK_D]
        b_q = load_tile(q + rows[:, None] * stride_qn + offs_d[None, :] * stride_qd, keep_q, FULL)
        # [BLOCK_N, BLOCK_D]
        b_k = load_tile(k + rows[:, None] * stride_kn + offs_d[None, :] * stride_kd, keep_q, FULL)
        # [BLOCK_DV, BLOCK_N]
        b_vt = load_tile(
            v + offs_dv[:, None] * stride_vd + rows[None, :] * stride_vn, keep_vt, FULL
        ).to(OPERAND)
        # [BLOCK_N, BLOCK_DV]
        b_do = load_tile(
            do + rows[:, None] * stride_on + offs_dv[None, :] * stride_od, keep_v, FULL
        ).to(OPERAND)
        fq = phi_operand(b_q, keep_q, 1, FEATURE_MAP, FULL, OPERAND)
        fk = phi_operand(b_k, keep_q, 1, FEATURE_MAP, FULL, OPERAND)

        # S_t do_t = S do_t + Σ_{j ≤ t} (do_t·v_j) φ(k_j)
        w = dot(b_do, b_vt, PRECISION)  # [BLOCK_N, BLOCK_N]
        if NORMALIZE:
            c_do = tl.sum(dot(b_do, c_column, PRECISION), axis=1)  # [BLOCK_N]
            w -= c_do[:, None]
            b_vt -= c_column
        w = tl.where(seen, w, 0.0).to(OPERAND)
        dfq = dot(b_do, st.to(OPERAND), PRECISION)  # [BLOCK_N, BLOCK_D]
        dfq = dot(w, fk, PRECISION, dfq)
        if NORMALIZE:
            # z_t of each row: a sum over keys as a matrix product
            zt = dot(seen.to(OPERAND), fk, PRECISION) + z
            b_g = 1.0 / (tl.sum(fq.to(tl.float32) * zt, axis=1) + eps)  # [BLOCK_N]
            b_r = (eps * c_do - tl.sum(fq.to(tl.float32) * dfq, axis=1)) * b_g
            dfq = (dfq + b_r[:, None] * zt) * b_g[:, None]
            tl.store(g + row, b_g, (rows < last) & (tile == 0))
            tl.store(r + tile.to(tl.int64) * stride_r + row, b_r, rows < last)
            z = dot(ones, fk, PRECISION, z)
        else:
            dfq *= scale
        b_dq = phi_backward(fq.to(tl.float32), dfq, 1, FEATURE_MAP)
        store_tile(dq + rows[:, None] * D + offs_d[None, :], b_dq, keep_q, FULL)
        st = dot(b_vt, fk, PRECISION, st)
    # [causal-backward-query-kernel:end]


# [causal-backward-key-kernel:begin]
@triton.jit(do_not_specialize_on_alignment=["parts"])
def causal_backward_key_kernel(
    q,  # [B, H, N, D]
    k,  # [B, H // GROUP, N, D]
    v,  # [B, H // GROUP, N, DV]
    do,  # [B, H, N, DV]
    g,  # [B, H, N] float32: 1 / d; only if NORMALIZE
    r,  # [B, H, N] float32: -do·(o - c); only if NORMALIZE
    mean,  # [B, H // GROUP, DV] float32: c; only if NORMALIZE
    dstates,  # [parts, B * H, D * DV + D] float32: dS and dz of what comes after; if HAS_STATE
    dtotal,  # [B * H, D * DV + D] float32: dS and dz of all, written if FINAL
    dk,  # [tiles, B, H, N, D] contiguous, written
    dv,  # [B, H, N, DV] contiguous, written
    cu_seqlens,  # [B + 1] int32; only if PACKED
    stride_qb, stride_qh, stride_qn, stride_qd,
    stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd,
    stride_ob, stride_oh, stride_on, stride_od,
    stride_states, stride_dk, N, H, parts, scale,
    D: tl.constexpr, DV: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    FEATURE_MAP: tl.constexpr, NORMALIZE: tl.constexpr, PACKED: tl.constexpr, FULL: tl.constexpr,
    HAS_STATE: tl.constexpr, FINAL: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dφ(k_j) = dS_j v_j + dz_j and dv_j = dS_jᵀ φ(k_j), from the last chunk to the first.

    Values are less c, and dz and r are those of such values. Indexed by t (queries) and j (keys)
    inside a chunk. dS is carried transposed and dv is computed transposed, so that no product
    needs a transposed accumulator.
    """
    TILES: tl.constexpr = (DV + BLOCK_DV - 1) // BLOCK_DV
    tile = tl.program_id(0) % TILES
    part = tl.program_id(0) // TILES % parts
    head = tl.program_id(0) // TILES // parts
    h = head % H
    start, end, batch = sequence_of(cu_seqlens, head // H, N, PACKED)
    first, last = rows_of(start, end, part, parts, BLOCK_N)

    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    offs_dv = tile * BLOCK_DV + tl.arange(0, BLOCK_DV)
    hk = (h // GROUP).to(tl.int64)
    q += batch * stride_qb + h.to(tl.int64) * stride_qh
    k += batch * stride_kb + hk * stride_kh
    v += batch * stride_vb + hk * stride_vh
    do += batch * stride_ob + h.to(tl.int64) * stride_oh
    dk += tile.to(tl.int64) * stride_dk + (batch * H + h) * N * D
    dv += (batch * H + h) * N * DV
    offset = head.to(tl.int64) * (D * DV + D)

    keep_st = (offs_dv[:, None] < DV) & (offs_d[None, :] < D)
    once = tile == 0  # dz and r are whole in the first tile, and nothing in the others
    if HAS_STATE:
        dstates += part.to(tl.int64) * stride_states + offset
        # [BLOCK_DV, BLOCK_D]
        dst = tl.load(dstates + offs_dv[:, None] + offs_d[None, :] * DV, keep_st, 0.0)
        dz = tl.load(dstates + D * DV + offs_d, (offs_d < D) & once, 0.0)[None, :]  # [1, BLOCK_D]
    else:
        dst = tl.zeros([BLOCK_DV, BLOCK_D], dtype=tl.float32)
        dz = tl.zeros([1, BLOCK_D], dtype=tl.float32)
    if NORMALIZE:
        mean += (head // GROUP).to(tl.int64) * DV
        c_row = tl.load(mean + offs_dv, offs_dv < DV, 0.0)[None, :].to(OPERAND)  # [1, BLOCK_DV]
    chunks = tl.cdiv(last - first, BLOCK_N)
    for i in range(0, chunks):
        rows = (first + (chunks - 1 - i) * BLOCK_N + offs_n).to(tl.int64)
        row = (batch * H + h) * N + rows
        keep_q = (rows[:, None] < last) & (offs_d[None, :] < D)
        keep_v = (rows[:, None] < last) & (offs_dv[None, :] < DV)
        keep_vt = (offs_dv[:, None] < DV) & (rows[None, :] < last)
        # [BLOCK_N, BLOCK_D]
        b_q = load_tile(q + rows[:, None] * stride_qn + offs_d[None, :] * stride_qd, keep_q, FULL)
        # [BLOCK_N, BLOCK_D]
        b_k = load_tile(k + rows[:, None] * stride_kn + offs_d[None, :] * stride_kd, keep_q, FULL)
        # [BLOCK_N, BLOCK_DV]
        b_v = load_tile(
            v + rows[:, None] * stride_vn + offs_dv[None, :] * stride_vd, keep_v, FULL
        ).to(OPERAND)
        # [BLOCK_DV, BLOCK_N]
        b_dot = load_tile(
            do + offs_dv[:, None] * stride_od + rows[None, :] * stride_on, keep_vt, FULL
        ).to(OPERAND)
        fq = phi_operand(b_q, keep_q, 1, FEATURE_MAP, FULL, OPERAND)
        fk = phi_operand(b_k, keep_q, 1, FEATURE_MAP, FULL, OPERAND)
        fkt = tl.trans(fk)  # [BLOCK_D, BLOCK_N]
        # φ(q) / d stands for φ(q) from here on: do can go to the tensor cores as it was loaded
        if NORMALIZE:
            b_g = tl.load(g + row, rows < last, 0.0)  # [BLOCK_N]
            b_r = tl.load(r + row, (rows < last) & once, 0.0)  # [BLOCK_N]
            fq = (fq.to(tl.float32) * b_g[:, None]).to(OPERAND)
            b_v -= c_row
        else:
            fq = (fq.to(tl.float32) * scale).to(OPERAND)

        # dφ(k_j) = Σ_{t ≥ j} (do_t·v_j + r_t) φ(q_t) / d_t + dS v_j + dz
        w = dot(b_v, b_dot, PRECISION)  # [j, t]
        if NORMALIZE:
            w += b_r[None, :]
        w = tl.where(offs_n[:, None] <= offs_n[None, :], w, 0.0)
        dfk = dot(b_v, dst.to(OPERAND), PRECISION) + dz
        dfk = dot(w.to(OPERAND), fq, PRECISION, dfk)
        b_dk = phi_backward(fk.to(tl.float32), dfk, 1, FEATURE_MAP)
        store_tile(dk + rows[:, None] * D + offs_d[None, :], b_dk, keep_q, FULL)

        # dv_j = Σ_{t ≥ j} (φ(q_t)·φ(k_j) / d_t) do_t + dSᵀ φ(k_j), transposed
        p = dot(fq, fkt, PRECISION)  # [t, j]
        p = tl.where(offs_n[:, None] >= offs_n[None, :], p, 0.0)
        b_dvt = dot(dst.to(OPERAND), fkt, PRECISION)  # [BLOCK_DV, j]
        b_dvt = dot(b_dot, p.to(OPERAND), PRECISION, b_dvt)
        store_tile(dv + offs_dv[:, None] + rows[None, :] * DV, b_dvt, keep_vt, FULL)

        dst = dot(b_dot, fq, PRECISION, dst)
        if NORMALIZE:
            dz = dot(b_r[None, :].to(OPERAND), fq, PRECISION, dz)

    if FINAL:
        dtotal += offset
        keep_st = keep_st & (part == 0)
        tl.store(dtotal + offs_dv[:, None] + offs_d[None, :] * DV, dst, keep_st)
        tl.store(
            dtotal + D * DV + offs_d,
            tl.sum(dz, axis=0),
            (offs_d < D) & (part == 0) & once,
        )
    # [causal-backward-key-kernel:end]


def _states_before(k, v, initial, tile, parts, feature_map, cu_seqlens, weights=None):
    """The state before each part, [parts, S, H, SIZE] float32, or None where it is zero.

    A program of the state pass needs fewer registers than one that writes outputs: more of them
    fit, and a part is cut once more to have them. With `weights` it is the gradient of the state,
    and what comes after counts as before.
    """
    if parts == 1:
        return None if initial is None else initial.unsqueeze(0)
    S = k.shape[0] if cu_seqlens is None else cu_seqlens.numel() - 1
    H, DV = v.shape[1], v.shape[3]
    programs = S * H * configs.cdiv(DV, tile.values) * (parts - 1)
    cuts = configs.cuts(tile, k.device, programs, k.shape[0] * k.shape[2] // (S * parts))
    size = k.shape[-1] * (DV + 1)
    states = k.new_empty((parts * cuts, S, H, size), dtype=torch.float32)
    reverse = weights is not None
    launch_state(
        k, v, states, tile, feature_map, cu_seqlens,
        weights=weights, skip="first" if reverse else "last", cuts=cuts,
    )  # fmt: skip
    launch_combine(states, initial, reverse=reverse, missing=cuts)
    return states[cuts - 1 :: cuts] if reverse else states[::cuts]


def forward(q, k, v, initial, cu_seqlens, feature_map, normalize, scale, eps, save):
    """o, the state after the last token, and states that spare the backward pass a state pass.

    q [B, H, N, D], k [B, Hk, N, D], v [B, Hk, N, Dv], any strides; initial [S, Hk, D * Dv + D]
    float32 or None. Returns o [B, H, N, Dv], state [S, Hk, D * Dv + D] and `kept`: None, or with
    `save`, where it costs little, what came before every so many tokens, see `kept_shape`.
    """
    B, H, N, D = q.shape
    Hk, DV = v.shape[1], v.shape[3]
    if cu_seqlens is None and configs.chained_is_faster(q, k, v):
        return chained.forward(q, k, v, initial, feature_map, normalize, scale, eps, save)
    S = B if cu_seqlens is None else cu_seqlens.numel() - 1
    tile, parts = configs.plan("causal_output_kernel", q, DV, S * H, cu_seqlens)
    states = _states_before(k, v, initial, tile, parts, feature_map, cu_seqlens)
    o = q.new_empty((B, H, N, DV))
    total = q.new_empty((S, Hk, D * DV + D), dtype=torch.float32)
    launch_output(
        q, k, v, o, states, total, cu_seqlens, tile, parts, feature_map, normalize, scale, eps
    )
    return o, total, None


def launch_output(
    q, k, v, o, states, total, cu_seqlens, tile, parts, feature_map, normalize, scale, eps
):  # fmt: skip
    """Runs `causal_output_kernel`: o [B, H, N, Dv], and total, the state after the last token.

    states [parts, S, Hk, D * Dv + D] float32 is what came before each part, None where nothing did.
    """
    _, H, N, _ = q.shape
    S, Hk, DV = *total.shape[:2], v.shape[3]
    launch(
        causal_output_kernel, S * H * parts * configs.cdiv(DV, tile.values),
        (q, k, v, o, states, total, cu_seqlens),
        (*q.stride(), *k.stride(), *v.stride()),
        stride_states=0 if states is None else states.stride(0),
        N=N, H=H, parts=parts, scale=scale, eps=eps, GROUP=H // Hk, NORMALIZE=normalize,
        HAS_STATE=states is not None,
        **configs.constants(tile, q, DV, feature_map, cu_seqlens),
    )  # fmt: skip


def kept_shape(q, k, v, cu_seqlens, save):
    """The shape of `kept`, which `forward` returns: [B, Hk, ·, D * Dv + D], or none."""
    if not save or cu_seqlens is not None or not configs.chained_is_faster(q, k, v):
        return (0,)
    B, Hk, N, D = k.shape
    every = configs.CHAINED.kept * configs.CHAINED.segment
    return B, Hk, configs.cdiv(N, every), D * (v.shape[3] + 1)


def _kept_before(kept, N, parts):
    """The state before each part, [parts, B, Hk, SIZE], or None where `kept` has not all."""
    every = configs.CHAINED.kept * configs.CHAINED.segment
    if kept is None or kept.ndim != 4 or N % (parts * every):
        return None
    return kept.permute(2, 0, 1, 3)[:: N // (parts * every)]


def backward(
    q, k, v, initial, state, kept, do, dstate, cu_seqlens, feature_map, normalize, scale, eps
):  # fmt: skip
    """dq, dk, dv in q's dtype and the gradient of the initial state, None where there is none.

    That is [S, Hk, D * Dv + D] float32. state and kept are what `forward` returned, do
    [B, H, N, Dv] has any strides, dstate [S, Hk, D * Dv + D] is the gradient of the returned state
    or None.
    """
    B, H, N, _ = q.shape
    Hk, DV = v.shape[1], v.shape[3]
    S = B if cu_seqlens is None else cu_seqlens.numel() - 1
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))

    tile, parts = configs.plan("causal_backward_query_kernel", q, DV, S * H, cu_seqlens)
    states = _kept_before(kept, N, parts)
    if states is None:
        states = _states_before(k, v, initial, tile, parts, feature_map, cu_seqlens)
    mean = mean_of_values(state, DV, q.dtype, normalize)
    g, r = query_gradients(
        q, k, v, mean, do, states, dq, cu_seqlens, tile, parts, feature_map, normalize, scale, eps
    )

    tile, parts = configs.plan("causal_backward_key_kernel", q, DV, S * H, cu_seqlens)
    if dstate is not None:
        dstate = spread(shift(dstate, mean, 1.0), H)
    dstates = _states_before(q, do, dstate, tile, parts, feature_map, cu_seqlens, weights=(g, r))
    dtotal = None
    if initial is not None:
        dtotal = q.new_empty((S, H, k.shape[3] * (DV + 1)), dtype=torch.float32)
    key_gradients(
        q, k, v, mean, do, g, r, dstates, dk, dv, dtotal,
        cu_seqlens, tile, parts, feature_map, normalize, scale,
    )  # fmt: skip
    if initial is None:
        return dq, dk, dv, None
    if H > Hk:
        dtotal = dtotal.unflatten(1, (Hk, H // Hk)).sum(2)
    return dq, dk, dv, shift(dtotal, mean, -1.0)


def spread(dstate, H):
    """dstate [S, Hk, SIZE] over H query heads: counted once for each group of them."""
    if dstate is None or dstate.shape[1] == H:
        return dstate
    S, Hk, SIZE = dstate.shape
    heads = dstate.new_zeros((S, Hk, H // Hk, SIZE))
    heads[:, :, 0] = dstate
    return heads.flatten(1, 2)


def query_gradients(
    q, k, v, mean, do, states, dq, cu_seqlens, tile, parts, feature_map, normalize, scale, eps
):  # fmt: skip
    """Writes dq [B, H, N, D]; returns 1 / d and -do·(o - c) of each row, [B, H, N] float32.

    mean [S, Hk, Dv] float32, c, is one of the values, by `mean_of_values`.

    states [parts, S, Hk, D * Dv + D] float32, any strides but the last, is what came before each
    part, None where nothing did.
    """
    B, H, N, _ = q.shape
    Hk, DV = v.shape[1], v.shape[3]
    S = B if cu_seqlens is None else cu_seqlens.numel() - 1
    tiles = configs.cdiv(DV, tile.values)
    dq_tiles = tiles_of(dq, tiles)
    g = q.new_empty((B, H, N), dtype=torch.float32)
    r = q.new_empty((tiles, B, H, N), dtype=torch.float32)
    launch(
        causal_backward_query_kernel, S * H * parts * tiles,
        (q, k, v, do, states, dq_tiles, mean, g, r, cu_seqlens),
        (*q.stride(), *k.stride(), *v.stride(), *do.stride()),
        stride_states=0 if states is None else states.stride(0),
        stride_head=0 if states is None else states.stride(2),
        stride_dq=dq_tiles.stride(0), stride_r=r.stride(0),
        N=N, H=H, parts=parts, scale=scale, eps=eps, GROUP=H // Hk, NORMALIZE=normalize,
        HAS_STATE=states is not None,
        **configs.constants(tile, q, DV, feature_map, cu_seqlens),
    )  # fmt: skip
    add_tiles(dq_tiles, dq)
    if normalize:
        return g, sum_tiles(r, torch.float32)
    g.fill_(scale)
    return g, torch.zeros_like(g)


def key_gradients(
    q, k, v, mean, do, g, r, dstates, dk, dv, dtotal, cu_seqlens,
    tile, parts, feature_map, normalize, scale,
):  # fmt: skip
    """Writes dk [B, Hk, N, D], dv [B, Hk, N, Dv] and, unless it is None, dtotal.

    dstates [parts, S, H, D * Dv + D] float32 is what comes after each part, None where nothing
    does; dtotal [S, H, D * Dv + D] float32 is the gradient of what came first. In both dz is that
    of values less c, the mean [S, Hk, Dv].
    """
    B, H, N, _ = q.shape
    Hk, DV = v.shape[1], v.shape[3]
    S = B if cu_seqlens is None else cu_seqlens.numel() - 1
    GROUP = H // Hk
    tiles = configs.cdiv(DV, tile.values)
    dk_heads, dv_heads = dk, dv
    if GROUP > 1:  # the query heads of a group are summed in float32
        dk_heads, dv_heads = (
            x.new_empty((B, H, *x.shape[2:]), dtype=torch.float32) for x in (dk, dv)
        )
    dk_tiles = tiles_of(dk_heads, tiles)
    launch(
        causal_backward_key_kernel, S * H * parts * tiles,
        (q, k, v, do, g, r, mean, dstates, dtotal, dk_tiles, dv_heads, cu_seqlens),
        (*q.stride(), *k.stride(), *v.stride(), *do.stride()),
        stride_states=0 if dstates is None else dstates.stride(0), stride_dk=dk_tiles.stride(0),
        N=N, H=H, parts=parts, scale=scale, GROUP=GROUP, NORMALIZE=normalize,
        HAS_STATE=dstates is not None, FINAL=dtotal is not None,
        **configs.constants(tile, q, DV, feature_map, cu_seqlens),
    )  # fmt: skip
    add_tiles(dk_tiles, dk_heads)
    if GROUP > 1:
        for heads, x in ((dk_heads, dk), (dv_heads, dv)):
            x.copy_(heads.unflatten(1, (Hk, GROUP)).sum(2))
