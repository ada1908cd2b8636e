"""The backward pass of linear attention with decay.

As in `causal.py`, dφ(q_t) needs the state before t and is computed in the order of the run; dφ(k_j)
and dv_j need the gradient of the state, dS_j = Σ_{t ≥ j} exp(G_t - G_j) φ(q_t)ᵀ do_t / d_t, and are
computed in the opposite order. Every weight carries the factor of `decay.py`, exp(G_t - G_j).

The gradient of the log decays needs no product of its own. With w_tj what the pair (t, j) adds to
the loss to first order in its weight, times the weight,

    dg_t = Σ of w_ij over the pairs i ≥ t > j        since g_t is in G_i - G_j of just these

and the sums over one side of all pairs are at hand: Σ_j w_tj = φ(q_t)·dφ(q_t) and
Σ_t w_tj = φ(k_j)·dφ(k_j). From the last row of a part to row t, the difference of the two counts
pairs with i ≥ t > j, less those that leave the part; ⟨S, dS⟩ at the end of the part is the sum over
all pairs that straddle it, and puts that right. So rounding adds up over one part and no longer.

Source: Yang et al., Gated Linear Attention, 2024, for the gradient from both sides of the pairs.
"""

import torch
import triton
import triton.language as tl

from .bidirectional import dot, load_tile, sequence_of, store_tile, sum_tiles
from .decay import LEAST, Run, chunk_decay, decay_at, load_decay, part_of, parts_for, rows_at
from .feature_maps import phi_backward, phi_operand
from .launch import launch

ROWS = 1024  # of a part, at the most: the rows over which the gradient of the decay is summed


# [decay-backward-query-kernel:begin]
@triton.jit(do_not_specialize_on_alignment=["parts"])
def decay_backward_query_kernel(
    q,  # [B, H, N, D]
    k,  # [B, H // GROUP, N, D]
    v,  # [B, H // GROUP, N, DV]
    do,  # [B, H, N, DV]
    o,  # [B, H, N, DV] contiguous; only if NORMALIZE
    decay,  # [B, H // GROUP, N] float32
    inverse,  # [B, H, N] float32: 1 / d; only if NORMALIZE
    states,  # [parts + 1, S * H // GROUP, D * DV + D] float32: what came before each part
    dq,  # [tiles, B, H, N, D] contiguous, written
    first_dq,  # [tiles, B, H, N, D] float32: of the first run, to be added; only if HALF is 2
    r,  # [tiles, B, H, N] float32: -do·o, written if NORMALIZE
    x,  # [tiles, B, H, N] float32: φ(q)·dφ(q), written
    cu_seqlens,  # [S + 1] int32; only if PACKED
    stride_qb, stride_qh, stride_qn, stride_qd,
    stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd,
    stride_ob, stride_oh, stride_on, stride_od,
    stride_gb, stride_gh, stride_gn,
    stride_states, stride_dq, stride_r, N, H, parts, scale,
    D: tl.constexpr, DV: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    FEATURE_MAP: tl.constexpr, NORMALIZE: tl.constexpr, HALF: tl.constexpr,
    PACKED: tl.constexpr, FULL: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dφ(q_t) = Σ_{j ≤ t} M_tj (do_t·v_j + r_t) φ(k_j) / d_t, with r_t = -do_t·o_t.

    For one part of a run, first chunk to last. The state is carried transposed, so that no product
    needs a transposed accumulator.
    """
    REVERSE: tl.constexpr = HALF == 2
    TILES: tl.constexpr = (DV + BLOCK_DV - 1) // BLOCK_DV
    tile = tl.program_id(0) % TILES
    part = tl.program_id(0) // TILES % parts
    head = tl.program_id(0) // TILES // parts
    h = head % H
    start, end, batch = sequence_of(cu_seqlens, head // H, N, PACKED)
    first, last = part_of(0, end - start, part, parts)

    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    offs_dv = tile * BLOCK_DV + tl.arange(0, BLOCK_DV)
    hk = (h // GROUP).to(tl.int64)
    q += batch * stride_qb + h.to(tl.int64) * stride_qh
    k += batch * stride_kb + hk * stride_kh
    v += batch * stride_vb + hk * stride_vh
    do += batch * stride_ob + h.to(tl.int64) * stride_oh
    decay += batch * stride_gb + hk * stride_gh
    x += tile.to(tl.int64) * stride_r
    states += part.to(tl.int64) * stride_states + (head // GROUP).to(tl.int64) * (D * DV + D)

    keep_st = (offs_dv[:, None] < DV) & (offs_d[None, :] < D)
    # [BLOCK_DV, BLOCK_D]
    st = tl.load(states + offs_dv[:, None] + offs_d[None, :] * DV, keep_st, 0.0)
    z = tl.load(states + D * DV + offs_d, offs_d < D, 0.0)[None, :]  # [1, BLOCK_D]
    if HALF == 2:
        seen = offs_n[:, None] > offs_n[None, :]  # [query, key]
    else:
        seen = offs_n[:, None] >= offs_n[None, :]
    for c in range(first, last, BLOCK_N):
        n = c + offs_n
        rows = rows_at(n, start, end, REVERSE)
        row = (batch * H + h) * N + rows
        keep_q = (n[:, None] < last) & (offs_d[None, :] < D)
        keep_v = (n[:, None] < last) & (offs_dv[None, :] < DV)
        keep_vt = (offs_dv[:, None] < DV) & (n[None, :] < last)
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
        )
        g = load_decay(decay, stride_gn, n, last, start, end, REVERSE)  # [BLOCK_N]
        log_g = tl.cumsum(g, axis=0)
        left = chunk_decay(log_g, n, last, BLOCK_N)
        fq = phi_operand(b_q, keep_q, 1, FEATURE_MAP, FULL, OPERAND).to(tl.float32)
        fk = phi_operand(b_k, keep_q, 1, FEATURE_MAP, FULL, OPERAND)

        w = dot(b_do.to(OPERAND), b_vt, PRECISION)  # [BLOCK_N, BLOCK_N]
        dfq = dot(b_do.to(OPERAND), st.to(OPERAND), PRECISION)
        if NORMALIZE:
            # [BLOCK_N, BLOCK_DV]
            b_o = load_tile(o + row[:, None] * DV + offs_dv[None, :], keep_v, FULL)
            b_r = -tl.sum(b_do.to(tl.float32) * b_o.to(tl.float32), axis=1)  # [BLOCK_N]
            tl.store(r + tile.to(tl.int64) * stride_r + row, b_r, n < last)
            w += b_r[:, None]
            dfq += b_r[:, None] * z
        w *= tl.exp(tl.where(seen, log_g[:, None] - log_g[None, :], float("-inf")))
        dfq *= tl.exp(log_g)[:, None]
        dfq = dot(w.to(OPERAND), fk, PRECISION, dfq)  # [BLOCK_N, BLOCK_D]
        if NORMALIZE:
            dfq *= tl.load(inverse + row, n < last, 0.0)[:, None]
        else:
            dfq *= scale
        tl.store(x + row, tl.sum(fq * dfq, axis=1), n < last)
        b_dq = phi_backward(fq, dfq, 1, FEATURE_MAP)
        offs_dq = tile.to(tl.int64) * stride_dq + row[:, None] * D + offs_d[None, :]
        if HALF == 2:
            b_dq += load_tile(first_dq + offs_dq, keep_q, FULL)  # [BLOCK_N, BLOCK_D]
        store_tile(dq + offs_dq, b_dq, keep_q, FULL)

        fk = (fk.to(tl.float32) * tl.exp(tl.minimum(left - log_g, 0.0))[:, None]).to(OPERAND)
        st = dot(b_vt, fk, PRECISION, st * tl.exp(left))
        z = z * tl.exp(left) + tl.sum(fk.to(tl.float32), axis=0)[None, :]
    # [decay-backward-query-kernel:end]


# [decay-backward-key-kernel:begin]
@triton.jit(do_not_specialize_on_alignment=["parts"])
def decay_backward_key_kernel(
    q,  # [B, H, N, D]
    k,  # [B, H // GROUP, N, D]
    v,  # [B, H // GROUP, N, DV]
    do,  # [B, H, N, DV]
    decay,  # [B, H // GROUP, N] float32
    inverse,  # [B, H, N] float32: 1 / d; only if NORMALIZE
    r,  # [B, H, N] float32: -do·o; only if NORMALIZE
    dstates,  # [parts + 1, S * H, D * DV + D] float32: gradient of the state before each part
    dk,  # [tiles, B, H, N, D] contiguous, written
    dv,  # [B, H, N, DV] contiguous, written
    first_dk,  # [tiles, B, H, N, D] float32: of the first run, to be added; only if HALF is 2
    first_dv,  # [B, H, N, DV] float32, the same
    y,  # [tiles, B, H, N] float32: φ(k)·dφ(k), written
    cu_seqlens,  # [S + 1] int32; only if PACKED
    stride_qb, stride_qh, stride_qn, stride_qd,
    stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd,
    stride_ob, stride_oh, stride_on, stride_od,
    stride_gb, stride_gh, stride_gn,
    stride_states, stride_dk, stride_y, N, H, parts, scale,
    D: tl.constexpr, DV: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    FEATURE_MAP: tl.constexpr, NORMALIZE: tl.constexpr, HALF: tl.constexpr,
    PACKED: tl.constexpr, FULL: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dφ(k_j) = Σ_{t ≥ j} M_tj (do_t·v_j + r_t) φ(q_t) / d_t and
    dv_j = Σ_{t ≥ j} M_tj (φ(q_t)·φ(k_j) / d_t) do_t.

    From the last chunk of a part to its first, indexed by t (queries) and j (keys). dS is carried
    transposed and dv is computed transposed, so that no product needs a transposed accumulator.
    """
    REVERSE: tl.constexpr = HALF == 2
    TILES: tl.constexpr = (DV + BLOCK_DV - 1) // BLOCK_DV
    tile = tl.program_id(0) % TILES
    part = tl.program_id(0) // TILES % parts
    head = tl.program_id(0) // TILES // parts
    h = head % H
    start, end, batch = sequence_of(cu_seqlens, head // H, N, PACKED)
    first, last = part_of(0, end - start, part, parts)

    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    offs_dv = tile * BLOCK_DV + tl.arange(0, BLOCK_DV)
    hk = (h // GROUP).to(tl.int64)
    q += batch * stride_qb + h.to(tl.int64) * stride_qh
    k += batch * stride_kb + hk * stride_kh
    v += batch * stride_vb + hk * stride_vh
    do += batch * stride_ob + h.to(tl.int64) * stride_oh
    decay += batch * stride_gb + hk * stride_gh
    y += tile.to(tl.int64) * stride_y
    dstates += (part + 1).to(tl.int64) * stride_states + head.to(tl.int64) * (D * DV + D)

    once = tile == 0  # dz and r are whole in the first tile, and nothing in the others
    keep_st = (offs_dv[:, None] < DV) & (offs_d[None, :] < D)
    # [BLOCK_DV, BLOCK_D]
    dst = tl.load(dstates + offs_dv[:, None] + offs_d[None, :] * DV, keep_st, 0.0)
    dz = tl.load(dstates + D * DV + offs_d, (offs_d < D) & once, 0.0)[None, :]  # [1, BLOCK_D]
    if HALF == 2:
        seen = offs_n[:, None] > offs_n[None, :]  # [t, j]
        seen_t = offs_n[:, None] < offs_n[None, :]  # [j, t]
    else:
        seen = offs_n[:, None] >= offs_n[None, :]
        seen_t = offs_n[:, None] <= offs_n[None, :]
    chunks = tl.cdiv(last - first, BLOCK_N)
    for i in range(0, chunks):
        n = first + (chunks - 1 - i) * BLOCK_N + offs_n
        rows = rows_at(n, start, end, REVERSE)
        row = (batch * H + h) * N + rows
        keep_q = (n[:, None] < last) & (offs_d[None, :] < D)
        keep_v = (n[:, None] < last) & (offs_dv[None, :] < DV)
        keep_vt = (offs_dv[:, None] < DV) & (n[None, :] < last)
        # [BLOCK_N, BLOCK_D]
        b_q = load_tile(q + rows[:, None] * stride_qn + offs_d[None, :] * stride_qd, keep_q, FULL)
        # [BLOCK_N, BLOCK_D]
        b_k = load_tile(k + rows[:, None] * stride_kn + offs_d[None, :] * stride_kd, keep_q, FULL)
        # [BLOCK_N, BLOCK_DV]
        b_v = load_tile(v + rows[:, None] * stride_vn + offs_dv[None, :] * stride_vd, keep_v, FULL)
        # [BLOCK_DV, BLOCK_N]
        b_dot = load_tile(
            do + offs_dv[:, None] * stride_od + rows[None, :] * stride_on, keep_vt, FULL
        ).to(OPERAND)
        g = load_decay(decay, stride_gn, n, last, start, end, REVERSE)  # [BLOCK_N]
        log_g = tl.cumsum(g, axis=0)
        left = chunk_decay(log_g, n, last, BLOCK_N)
        after = tl.exp(tl.minimum(left - log_g, 0.0))  # [BLOCK_N]
        fq = phi_operand(b_q, keep_q, 1, FEATURE_MAP, FULL, OPERAND)
        fk = phi_operand(b_k, keep_q, 1, FEATURE_MAP, FULL, OPERAND)
        fkt = tl.trans(fk)  # [BLOCK_D, BLOCK_N]
        # φ(q) / d stands for φ(q) from here on: do can go to the tensor cores as it was loaded
        if NORMALIZE:
            b_r = tl.load(r + row, (n < last) & once, 0.0)  # [BLOCK_N]
            fq = fq.to(tl.float32) * tl.load(inverse + row, n < last, 0.0)[:, None]
        else:
            fq = fq.to(tl.float32) * scale

        w = dot(b_v.to(OPERAND), b_dot, PRECISION)  # [j, t]
        if NORMALIZE:
            w += b_r[None, :]
        w *= tl.exp(tl.where(seen_t, log_g[None, :] - log_g[:, None], float("-inf")))
        dfk = dot(b_v.to(OPERAND), dst.to(OPERAND), PRECISION) + dz
        dfk *= after[:, None]
        dfk = dot(w.to(OPERAND), fq.to(OPERAND), PRECISION, dfk)
        tl.store(y + row, tl.sum(fk.to(tl.float32) * dfk, axis=1), n < last)
        b_dk = phi_backward(fk.to(tl.float32), dfk, 1, FEATURE_MAP)
        offs_dk = tile.to(tl.int64) * stride_dk + row[:, None] * D + offs_d[None, :]
        if HALF == 2:
            b_dk += load_tile(first_dk + offs_dk, keep_q, FULL)  # [BLOCK_N, BLOCK_D]
        store_tile(dk + offs_dk, b_dk, keep_q, FULL)

        p = dot(fq.to(OPERAND), fkt, PRECISION)  # [t, j]
        p *= tl.exp(tl.where(seen, log_g[:, None] - log_g[None, :], float("-inf")))
        b_dvt = dot(dst.to(OPERAND), fkt, PRECISION)  # [BLOCK_DV, j]
        b_dvt *= after[None, :]
        b_dvt = dot(b_dot, p.to(OPERAND), PRECISION, b_dvt)
        offs_dvt = row[None, :] * DV + offs_dv[:, None]
        if HALF == 2:
            b_dvt += load_tile(first_dv + offs_dvt, keep_vt, FULL)  # [BLOCK_DV, j]
        store_tile(dv + offs_dvt, b_dvt, keep_vt, FULL)

        fq *= tl.exp(log_g)[:, None]
        dst = dot(b_dot, fq.to(OPERAND), PRECISION, dst * tl.exp(left))
        dz *= tl.exp(left)
        if NORMALIZE:
            dz += tl.sum(fq * b_r[:, None], axis=0)[None, :]
    # [decay-backward-key-kernel:end]


# [decay-gradient-kernel:begin]
@triton.jit(do_not_specialize_on_alignment=["parts"])
def decay_gradient_kernel(
    x,  # [x_tiles, B, H, N] float32: φ(q)·dφ(q)
    y,  # [y_tiles, B, H, N] float32: φ(k)·dφ(k)
    decay,  # [B, H // GROUP, N] float32
    states,  # [parts + 1, S * H // GROUP, SIZE] float32
    dstates,  # [parts + 1, S * H, SIZE] float32
    dg,  # [B, H // GROUP, N] float32 contiguous, written; added to if REVERSE
    cu_seqlens,  # [S + 1] int32; only if PACKED
    stride_gb, stride_gh, stride_gn,
    stride_x, stride_states, stride_dstates, N, H, parts, x_tiles, y_tiles,
    SIZE: tl.constexpr, GROUP: tl.constexpr, BLOCK: tl.constexpr, HAS_END: tl.constexpr,
    REVERSE: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """dg of one part of one key head: sums of x - y from each row on, and ⟨S, dS⟩ at its end."""
    part = tl.program_id(0) % parts
    head = tl.program_id(0) // parts
    heads = H // GROUP
    h = head % heads
    start, end, batch = sequence_of(cu_seqlens, head // heads, N, PACKED)
    first, last = part_of(0, end - start, part, parts)
    offs = tl.arange(0, BLOCK)
    states += (part + 1).to(tl.int64) * stride_states + head.to(tl.int64) * SIZE
    dstates += (part + 1).to(tl.int64) * stride_dstates + head.to(tl.int64) * GROUP * SIZE
    # [decay-gradient-sum:begin]
    straddling = tl.zeros([BLOCK], dtype=tl.float32)
    beyond = SIZE if HAS_END else tl.where(part < parts - 1, SIZE, 0)  # is there anything?
    for at in range(0, beyond, BLOCK):
        keep = at + offs < SIZE
        state = tl.load(states + at + offs, keep, 0.0)  # [BLOCK]
        for i in range(0, GROUP):
            straddling += state * tl.load(dstates + i * SIZE + at + offs, keep, 0.0)  # [BLOCK]
    carry = tl.sum(straddling, axis=0)

    decay += batch * stride_gb + h.to(tl.int64) * stride_gh
    dg += (batch * heads + h) * N
    chunks = tl.cdiv(last - first, BLOCK)
    for c in range(0, chunks):
        n = first + (chunks - 1 - c) * BLOCK + offs
        row = (batch * H + h * GROUP) * N + rows_at(n, start, end, REVERSE)
        difference = tl.zeros([BLOCK], dtype=tl.float32)
        for i in range(0, GROUP):
            for tile in range(0, x_tiles):
                here = x + tl.cast(tile, tl.int64) * stride_x + tl.cast(i, tl.int64) * N
                difference += tl.load(here + row, n < last, 0.0)  # [BLOCK]
            for tile in range(0, y_tiles):
                here = y + tl.cast(tile, tl.int64) * stride_x + tl.cast(i, tl.int64) * N
                difference -= tl.load(here + row, n < last, 0.0)  # [BLOCK]
        found = tl.cumsum(difference, axis=0, reverse=True) + carry
        carry += tl.sum(difference, axis=0)
        # [decay-gradient-sum:end]
        rows, keep = decay_at(n, last, start, end, REVERSE)
        g = tl.load(decay + rows * stride_gn, keep, 0.0)  # [BLOCK]
        found = tl.where((g < LEAST) | (g > 0.0), 0.0, found)  # held at the ends of its range
        if REVERSE:
            found += tl.load(dg + rows, keep, 0.0)  # [BLOCK]
        tl.store(dg + rows, found, keep)
    # [decay-gradient-kernel:end]


def backward(
    q, k, v, initial, cu_seqlens, decay, o, inverse, do, dstate,
    is_causal, feature_map, normalize, scale,
):  # fmt: skip
    """dq, dk, dv in q's dtype, the gradient of the initial state, None unless causal, and of decay.

    o and inverse are what `decay.forward` returned, do [B, H, N, Dv] has any strides, dstate
    [S, Hk, D * Dv + D] is the gradient of the returned state or None. The last two are
    [S, Hk, D * Dv + D] and [B, Hk, N] float32.
    """
    B, H, N, D = q.shape
    Hk, DV = v.shape[1], v.shape[3]
    S = B if cu_seqlens is None else cu_seqlens.numel() - 1
    GROUP = H // Hk
    halves = (0,) if is_causal else (1, 2)
    parts = parts_for("decay_backward_query_kernel", q, DV, S, cu_seqlens, ROWS)
    if dstate is not None and GROUP > 1:  # counted once for each group of query heads
        spread = dstate.new_zeros((S, Hk, GROUP, dstate.shape[-1]))
        spread[:, :, 0] = dstate
        dstate = spread.flatten(1, 2)

    (q_tile, q_tiles), (k_tile, k_tiles) = (
        Run(q, k, v, decay, cu_seqlens, feature_map, normalize, parts, 0).tile(name)
        for name in ("decay_backward_query_kernel", "decay_backward_key_kernel")
    )

    def written(last):
        """dq, dk and dv of a run: what is still to be added to stays in float32."""
        q_dtype = q.dtype if last and q_tiles == 1 else torch.float32
        k_dtype = q.dtype if last and k_tiles == GROUP == 1 else torch.float32
        v_dtype = q.dtype if last and GROUP == 1 else torch.float32
        return (
            q.new_empty((q_tiles, B, H, N, D), dtype=q_dtype),
            q.new_empty((k_tiles, B, H, N, D), dtype=k_dtype),
            q.new_empty((B, H, N, DV), dtype=v_dtype),
        )

    dg = q.new_empty((B, Hk, N), dtype=torch.float32)
    x = q.new_empty((q_tiles, B, H, N), dtype=torch.float32)
    y = q.new_empty((k_tiles, B, H, N), dtype=torch.float32)
    r = q.new_empty((q_tiles, B, H, N), dtype=torch.float32) if normalize else None
    strides = (*q.stride(), *k.stride(), *v.stride(), *do.stride(), *decay.stride())
    common = {"N": N, "H": H, "parts": parts, "GROUP": GROUP}
    dq = dk = dv = None
    for half in halves:
        first = dq, dk, dv
        dq, dk, dv = written(last=half != 1)
        run = Run(q, k, v, decay, cu_seqlens, feature_map, normalize, parts, half)
        states, totals = run.states(initial, whole=dstate is not None)
        launch(
            decay_backward_query_kernel, S * H * parts * q_tiles,
            (q, k, v, do, o, decay, inverse, states, dq, first[0], r, x, cu_seqlens), strides,
            stride_states=states.stride(0), stride_dq=dq.stride(0), stride_r=x.stride(0),
            scale=scale, NORMALIZE=normalize, HALF=half, **common, **run.constants(q_tile),
        )  # fmt: skip
        whole = sum_tiles(r, torch.float32) if normalize else None
        dstates = run.gradients(do, inverse, whole, dstate, totals, scale, initial is not None)
        launch(
            decay_backward_key_kernel, S * H * parts * k_tiles,
            (q, k, v, do, decay, inverse, whole, dstates, dk, dv, *first[1:], y, cu_seqlens),
            strides,
            stride_states=dstates.stride(0), stride_dk=dk.stride(0), stride_y=y.stride(0),
            scale=scale, NORMALIZE=normalize, HALF=half, **common, **run.constants(k_tile),
        )  # fmt: skip
        launch(
            decay_gradient_kernel, S * Hk * parts,
            (x, y, decay, states, dstates, dg, cu_seqlens), decay.stride(),
            stride_x=x.stride(0), stride_states=states.stride(0), stride_dstates=dstates.stride(0),
            x_tiles=q_tiles, y_tiles=k_tiles, SIZE=D * DV + D, BLOCK=256,
            HAS_END=dstate is not None,
            REVERSE=half == 2, PACKED=cu_seqlens is not None, num_warps=4, **common,
        )  # fmt: skip
    dk = sum_tiles(dk, dk.dtype)
    dinitial = None if initial is None else dstates[0]
    if GROUP > 1:
        dk, dv = (x.unflatten(1, (Hk, GROUP)).sum(2) for x in (dk, dv))
        dinitial = None if initial is None else dinitial.unflatten(1, (Hk, GROUP)).sum(2)
    return sum_tiles(dq, q.dtype), dk.to(q.dtype), dv.to(q.dtype), dinitial, dg
