"""Linear attention with decay, in one direction or in both: what is further away counts less.

    S_t = exp(g_t) S_{t-1} + φ(k_t) v_tᵀ        o_t = Σ_{j ≤ t} M_tj (φ(q_t)·φ(k_j)) v_j

with M_tj = exp(G_t - G_j) and G the running sum of the log decays g ≤ 0. The chunks of `causal.py`
remain, with three factors. With G counted from the first row of a chunk, that row's g included:

    a query sees the state before the chunk through     exp(G_t)          ≤ 1
    a key inside the chunk                               exp(G_t - G_j)    ≤ 1
    a key is left in the state after the chunk by        exp(G_C - G_j)    ≤ 1

Every exponent is a difference of sums over a chunk and at most 0: nothing overflows, and what is
lost was too small to matter. Where a chunk is *mild*, G not below -60 in base 2, the factors are
pulled apart instead, exp(G_t) into φ(q) and exp(-G_j) into φ(k), which takes two exponentials for
each row and not one for each pair. `decay_output_kernel` is compiled for both and launched twice;
each program takes the parts that are its own.

Between chunks there is the state of each part of a head: `decay_state_kernel` sums the parts,
`decay_combine_kernel` turns the sums into what came before, `decay_output_kernel` writes outputs.

Where `chained.py` is the faster way without a decay, `decay_chained.py` is with one and a
normalizer: it writes the outputs of parts that are mild, and leaves the others to the kernel here.

In both directions the mask is symmetric, M_tj = exp(-|G_t - G_j|): a second run goes from the last
row to the first and leaves out the diagonal, which the first has counted. Such a run counts its own
rows from 0, `REVERSE` says that row 0 is the last of the sequence. To pass from row t + 1 back to
row t costs what the way there does, g of row t + 1.

Source: Sun et al., RetNet, 2023 (fixed decay); Yang et al., Gated Linear Attention, 2024, and Dao
and Gu, Mamba-2, 2024 (one for each token); Afzal et al., LION, 2025 (both directions).
"""

import torch
import triton
import triton.language as tl

from . import configs, decay_chained
from .bidirectional import dot, load_tile, sequence_of, store_tile
from .decay_chained import MILD
from .feature_maps import phi_operand, scaled
from .launch import launch
from .reference import FORGOTTEN

LEAST = tl.constexpr(FORGOTTEN)
LOG2E = tl.constexpr(1.4426950408889634)  # exp(x) = exp2(LOG2E x), and exp2 is one instruction
UNIT = tl.constexpr(128)  # rows of a part, a multiple of this whatever the tile: all kernels agree


@triton.jit
def part_of(start, end, part, parts):
    """The rows from start to end that are one of `parts`, in whole units."""
    share = tl.cdiv(tl.cdiv(end - start, parts), UNIT) * UNIT
    first = tl.minimum(start + part * share, end)
    return first, tl.minimum(first + share, end)


# [run-rows:begin]
@triton.jit
def rows_at(n, start, end, REVERSE: tl.constexpr):
    """Where the rows n of a run lie."""
    rows = end - 1 - n if REVERSE else start + n
    return rows.to(tl.int64)


@triton.jit
def decay_at(n, last, start, end, REVERSE: tl.constexpr):
    """Where the log decay of each row n of a run lies, and whether it has one."""
    if REVERSE:  # the first row of a reversed run has none: nothing came before
        rows, keep = end - n, (n < last) & (n > 0)
    else:
        rows, keep = start + n, n < last
    return rows.to(tl.int64), keep
    # [run-rows:end]


@triton.jit
def load_decay(decay, stride, n, last, start, end, REVERSE: tl.constexpr):
    """Log decays [BLOCK_N], 0 from row `last` on; within the range where exp is a factor."""
    rows, keep = decay_at(n, last, start, end, REVERSE)
    g = tl.load(decay + rows * stride, keep, 0.0)
    g = tl.minimum(g, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return tl.maximum(g, LEAST, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def chunk_decay(log_g, n, last, BLOCK_N: tl.constexpr):
    """The log decay of a chunk: that of its last row, to the bit.

    So this row keeps a weight of one. A sum of its own would be rounded otherwise, and where much
    is forgotten the two are far enough apart to be seen.
    """
    is_last = (n == last - 1) | ((tl.arange(0, BLOCK_N) == BLOCK_N - 1) & (n < last))
    return tl.sum(tl.where(is_last, log_g, 0.0), axis=0)


# [decay-state-kernel:begin]
@triton.jit(do_not_specialize_on_alignment=["parts", "cuts", "first_cut", "count"])
def decay_state_kernel(
    k,  # [B, H, N, D]; if BACKWARD q
    v,  # [B, H, N, DV]; if BACKWARD do
    decay,  # [B, H // GROUP, N] float32
    states,  # [parts * cuts + 1, S * H, D * DV + D] float32, `count` of them written
    totals,  # [parts * cuts, S * H] float32, written unless BACKWARD: log decay of a whole cut
    weight,  # [B, H, N] float32: multiplies φ(k); if BACKWARD and NORMALIZE
    z_weight,  # [B, H, N] float32: multiplies it once more in z; if BACKWARD and NORMALIZE
    cu_seqlens,  # [S + 1] int32; only if PACKED
    stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd,
    stride_gb, stride_gh, stride_gn,
    stride_states, N, H, heads, parts, cuts, first_cut, count, scale,
    D: tl.constexpr, DV: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    FEATURE_MAP: tl.constexpr, NORMALIZE: tl.constexpr, BACKWARD: tl.constexpr,
    REVERSE: tl.constexpr, PACKED: tl.constexpr, FULL: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What one cut of a part of a run leaves in S and z; BACKWARD: asks of the state before it."""
    TILES: tl.constexpr = (DV + BLOCK_DV - 1) // BLOCK_DV
    tile = tl.program_id(0) % TILES
    index = first_cut + tl.program_id(0) // TILES % count
    head = tl.program_id(0) // TILES // count
    h = head % H
    start, end, batch = sequence_of(cu_seqlens, head // H, N, PACKED)
    first, last = part_of(0, end - start, index // cuts, parts)
    first, last = part_of(first, last, index % cuts, cuts)

    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    offs_dv = tile * BLOCK_DV + tl.arange(0, BLOCK_DV)
    k += batch * stride_kb + h.to(tl.int64) * stride_kh
    v += batch * stride_vb + h.to(tl.int64) * stride_vh
    decay += batch * stride_gb + (h // GROUP).to(tl.int64) * stride_gh

    s = tl.zeros([BLOCK_D, BLOCK_DV], dtype=tl.float32)
    z = tl.zeros([BLOCK_D, 1], dtype=tl.float32)
    ones = tl.full([BLOCK_N, 1], 1.0, dtype=OPERAND)  # a sum over rows as a matrix product
    total = 0.0
    chunks = tl.cdiv(last - first, BLOCK_N)
    for i in range(0, chunks):
        # forward, the last chunk decays least; backward, the first: each is added last
        n = first + (chunks - 1 - i if BACKWARD else i) * BLOCK_N + offs_n
        rows = rows_at(n, start, end, REVERSE)
        keep_k = (offs_d[:, None] < D) & (n[None, :] < last)
        keep_v = (n[:, None] < last) & (offs_dv[None, :] < DV)
        # [BLOCK_D, BLOCK_N]
        b_k = load_tile(k + offs_d[:, None] * stride_kd + rows[None, :] * stride_kn, keep_k, FULL)
        # [BLOCK_N, BLOCK_DV]
        b_v = load_tile(v + rows[:, None] * stride_vn + offs_dv[None, :] * stride_vd, keep_v, FULL)
        g = load_decay(decay, stride_gn, n, last, start, end, REVERSE)  # [BLOCK_N]
        log_g = tl.cumsum(g, axis=0)
        left = chunk_decay(log_g, n, last, BLOCK_N)
        fk = phi_operand(b_k, keep_k, 0, FEATURE_MAP, FULL, OPERAND)
        z *= tl.exp(left)
        if BACKWARD:
            row = (batch * H + h) * N + rows
            factor = tl.exp(log_g)
            factor *= tl.load(weight + row, n < last, 0.0) if NORMALIZE else scale
            fk = (fk.to(tl.float32) * factor[None, :]).to(OPERAND)
            if NORMALIZE:
                w_z = tl.load(z_weight + row, n < last, 0.0)  # [BLOCK_N]
                z = dot(fk, w_z[:, None].to(OPERAND), PRECISION, z)
        else:
            fk = scaled(fk, tl.exp(tl.minimum(left - log_g, 0.0))[None, :], OPERAND)
            z = dot(fk, ones, PRECISION, z)
        s = dot(fk, b_v.to(OPERAND), PRECISION, s * tl.exp(left))
        total += left

    to = index if BACKWARD else index + 1
    states += to.to(tl.int64) * stride_states + head.to(tl.int64) * (D * DV + D)
    keep_s = (offs_d[:, None] < D) & (offs_dv[None, :] < DV)
    tl.store(states + offs_d[:, None] * DV + offs_dv[None, :], s, keep_s)
    tl.store(states + D * DV + offs_d, tl.sum(z, axis=1), (offs_d < D) & (tile == 0))
    if not BACKWARD:
        tl.store(totals + index * heads + head, total, tile == 0)
    # [decay-state-kernel:end]


# [decay-combine-kernel:begin]
@triton.jit(do_not_specialize_on_alignment=["parts", "count"])
def decay_combine_kernel(
    states,  # [parts + 1, heads, SIZE] float32, from the sum of each part to the state, in place
    totals,  # [parts, heads // GROUP] float32: log decay of each part
    initial,  # [heads, SIZE] float32: state before the first part; only if HAS_INITIAL
    stride_states, parts, count, heads,
    SIZE: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr,
    HAS_INITIAL: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """The states between the parts, from the first on; BACKWARD: their gradients, from the last."""
    BLOCKS: tl.constexpr = (SIZE + BLOCK - 1) // BLOCK
    head = tl.program_id(0) // BLOCKS
    offs = tl.program_id(0) % BLOCKS * BLOCK + tl.arange(0, BLOCK)
    keep = offs < SIZE
    offset = head.to(tl.int64) * SIZE + offs
    if HAS_INITIAL:
        carry = tl.load(initial + offset, keep, 0.0)  # [BLOCK]
    else:
        carry = tl.zeros([BLOCK], dtype=tl.float32)
    edge = parts if BACKWARD else 0
    tl.store(states + tl.cast(edge, tl.int64) * stride_states + offset, carry, keep)
    for i in range(0, count):
        part = parts - 1 - i if BACKWARD else i
        to = part if BACKWARD else part + 1
        here = states + tl.cast(to, tl.int64) * stride_states + offset
        # at the edge nothing may be there, of which nothing decays
        here_too = (i > 0) | HAS_INITIAL
        left = tl.load(totals + part * (heads // GROUP) + head // GROUP, here_too, 0.0)
        carry = carry * tl.exp(left) + tl.load(here, keep, 0.0)  # [BLOCK]
        tl.store(here, carry, keep)
    # [decay-combine-kernel:end]


# [decay-sums-kernel:begin]
@triton.jit(do_not_specialize_on_alignment=["parts"])
def decay_sums_kernel(
    decay,  # [B, H, N] float32
    sums,  # [B, H, N] float32, written: in the order of the run
    cu_seqlens,  # [S + 1] int32; only if PACKED
    stride_gb, stride_gh, stride_gn,
    N, H, parts,
    CHUNKS: tl.constexpr, BLOCK_N: tl.constexpr, REVERSE: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """G in base 2 from the first row of each chunk of BLOCK_N on, for one part of one head."""
    part = tl.program_id(0) % parts
    head = tl.program_id(0) // parts
    h = head % H
    start, end, batch = sequence_of(cu_seqlens, head // H, N, PACKED)
    first, last = part_of(0, end - start, part, parts)
    decay += batch * stride_gb + h.to(tl.int64) * stride_gh
    sums += (batch * H + h) * N + start
    offs = tl.arange(0, CHUNKS)[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    for c in range(first, last, CHUNKS * BLOCK_N):
        n = c + offs
        g = load_decay(decay, stride_gn, n, last, start, end, REVERSE)  # [CHUNKS, BLOCK_N]
        tl.store(sums + n, tl.cumsum(g * LOG2E, axis=1), n < last)
    # [decay-sums-kernel:end]


# [decay-output-kernel:begin]
@triton.jit(do_not_specialize_on_alignment=["parts"])
def decay_output_kernel(
    q,  # [B, H, N, D]
    k,  # [B, H // GROUP, N, D]
    v,  # [B, H // GROUP, N, DV]
    sums,  # [B, H // GROUP, N] float32: G inside each SPAN rows, base 2, in the order of the run
    states,  # [parts + 1, S * H // GROUP, D * DV + D] float32: what came before each part
    o,  # [B, H, N, DV] contiguous, written unless HALF is 1
    total,  # [S * H // GROUP, D * DV + D] float32: state after the last row, written if HALF is 0
    above,  # [B, H, N, DV] float32: numerators; written if HALF is 1, read if it is 2
    below,  # [B, H, N] float32: denominators, the same; only if NORMALIZE
    inverse,  # [B, H, N] float32: 1 / (d + eps), written if SAVE
    cu_seqlens,  # [S + 1] int32; only if PACKED
    stride_qb, stride_qh, stride_qn, stride_qd,
    stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd,
    stride_states, N, H, parts, scale, eps,
    D: tl.constexpr, DV: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    FEATURE_MAP: tl.constexpr, NORMALIZE: tl.constexpr, HALF: tl.constexpr, SAVE: tl.constexpr,
    PACKED: tl.constexpr, FULL: tl.constexpr,
    FAST: tl.constexpr, SPAN: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """o for one part of a run, chunk by chunk, transposed as in `causal_output_kernel`.

    FAST takes the parts in which every chunk is mild, and pulls the factors apart: φ(q) exp(G) and
    φ(k) exp(-G) need no mask but the triangle. The others take the differences, entry by entry.

    HALF 0: causal. In both directions, HALF 1 is the run from first to last, whose sums HALF 2,
    the run from last to first without the diagonal, adds to its own.
    """
    tl.static_assert(SPAN % BLOCK_N == 0)
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
    sums += (batch * (H // GROUP) + hk) * N + start
    # [decay-mine:begin]
    least = 0.0  # log2 of what the strongest chunk leaves
    for c in range(first, last, BLOCK_N * BLOCK_N):
        ends = tl.minimum(c + (offs_n + 1) * BLOCK_N, last) - 1
        least = tl.minimum(least, tl.min(tl.load(sums + ends), axis=0))
    mine = (least >= MILD) if FAST else not (least >= MILD)
    if not mine:
        last = first
    # [decay-mine:end]
    offset = (head // GROUP).to(tl.int64) * (D * DV + D)
    states += part.to(tl.int64) * stride_states + offset

    keep_st = (offs_dv[:, None] < DV) & (offs_d[None, :] < D)
    # [BLOCK_DV, BLOCK_D]
    st = tl.load(states + offs_dv[:, None] + offs_d[None, :] * DV, keep_st, 0.0)
    z = tl.load(states + D * DV + offs_d, offs_d < D, 0.0)[None, :]  # [1, BLOCK_D]
    ones = tl.full([1, BLOCK_N], 1.0, dtype=OPERAND)  # a sum over rows as a matrix product
    if HALF == 2:
        seen = offs_n[:, None] < offs_n[None, :]  # [key, query]
    else:
        seen = offs_n[:, None] <= offs_n[None, :]
    # asked for one chunk ahead, so that nothing waits for them
    next_sums = tl.load(sums + first + offs_n, first + offs_n < last, 0.0)  # [BLOCK_N]
    # an empty sequence has none, and may lie behind the last of all
    next_left = tl.load(sums + tl.minimum(first + BLOCK_N, last) - 1, first < last, 0.0)
    for c in range(first, last, BLOCK_N):
        log_g, left = next_sums, next_left
        after = c + BLOCK_N
        next_sums = tl.load(sums + after + offs_n, after + offs_n < last, 0.0)  # [BLOCK_N]
        next_left = tl.load(sums + tl.minimum(after + BLOCK_N, last) - 1)
        n = c + offs_n
        if SPAN > BLOCK_N:  # from the first row of this chunk on
            before = tl.load(sums + c - 1, c % SPAN != 0, 0.0)
            log_g -= before
            left -= before
        if not FULL:
            log_g = tl.where(n < last, log_g, left)
        rows = rows_at(n, start, end, REVERSE)
        keep_q = (n[:, None] < last) & (offs_d[None, :] < D)
        keep_vt = (offs_dv[:, None] < DV) & (n[None, :] < last)
        # [BLOCK_N, BLOCK_D]
        b_q = load_tile(q + rows[:, None] * stride_qn + offs_d[None, :] * stride_qd, keep_q, FULL)
        # [BLOCK_N, BLOCK_D]
        b_k = load_tile(k + rows[:, None] * stride_kn + offs_d[None, :] * stride_kd, keep_q, FULL)
        # [BLOCK_DV, BLOCK_N]
        b_vt = load_tile(
            v + offs_dv[:, None] * stride_vd + rows[None, :] * stride_vn, keep_vt, FULL
        ).to(OPERAND)
        fq = phi_operand(b_q, keep_q, 1, FEATURE_MAP, FULL, OPERAND)
        fk = phi_operand(b_k, keep_q, 1, FEATURE_MAP, FULL, OPERAND)
        if FAST:
            fq = scaled(fq, tl.exp2(log_g)[:, None], OPERAND)
            fk = scaled(fk, tl.exp2(-log_g)[:, None], OPERAND)
        fqt = tl.trans(fq)

        # [decay-chunk:begin]
        weights = dot(fk, fqt, PRECISION)  # [key, query]
        if FAST:
            weights = tl.where(seen, weights, 0.0).to(OPERAND)
        else:
            between = log_g[None, :] - log_g[:, None]  # at most 0 where it is seen
            weights = tl.where(seen, weights * tl.exp2(between), 0.0).to(OPERAND)
        b_ot = dot(st.to(OPERAND), fqt, PRECISION)  # [BLOCK_DV, BLOCK_N]
        if not FAST:
            b_ot *= tl.exp2(log_g)[None, :]
        b_ot = dot(b_vt, weights, PRECISION, b_ot)
        # [decay-chunk:end]
        if NORMALIZE:
            d = dot(z.to(OPERAND), fqt, PRECISION)  # [1, BLOCK_N]
            if not FAST:
                d *= tl.exp2(log_g)[None, :]
            d = dot(ones, weights, PRECISION, d)
            d = tl.sum(d, axis=0)  # [BLOCK_N]
        row = (batch * H + h) * N + rows
        offs_ot = offs_dv[:, None] + row[None, :] * DV
        if HALF == 1:
            store_tile(above + offs_ot, b_ot, keep_vt, FULL)
            if NORMALIZE:
                tl.store(below + row, d, (n < last) & (tile == 0))
        else:
            if HALF == 2:
                b_ot += load_tile(above + offs_ot, keep_vt, FULL)  # [BLOCK_DV, BLOCK_N]
            if NORMALIZE:
                if HALF == 2:
                    d += tl.load(below + row, n < last, 0.0)  # [BLOCK_N]
                d = 1.0 / (d + eps)
                b_ot *= d[None, :]
                if SAVE:
                    tl.store(inverse + row, d, (n < last) & (tile == 0))
            else:
                b_ot *= scale
            store_tile(o + offs_ot, b_ot, keep_vt, FULL)
        if FAST:
            st = dot(b_vt, fk, PRECISION, st) * tl.exp2(left)
            z = dot(ones, fk, PRECISION, z) * tl.exp2(left)
        else:
            kept = tl.exp2(tl.minimum(left - log_g, 0.0))  # [BLOCK_N]: of a key, after the chunk
            b_vt = (b_vt.to(tl.float32) * kept[None, :]).to(OPERAND)
            st = dot(b_vt, fk, PRECISION, st * tl.exp2(left))
            z *= tl.exp2(left)
            z = dot(kept[None, :].to(OPERAND), fk, PRECISION, z)

    if HALF == 0:
        once = (part == parts - 1) & (h % GROUP == 0) & mine
        total += offset
        tl.store(total + offs_dv[:, None] + offs_d[None, :] * DV, st, keep_st & once)
        tl.store(total + D * DV + offs_d, tl.sum(z, axis=0), (offs_d < D) & once & (tile == 0))
    # [decay-output-kernel:end]


def parts_for(kernel, q, DV, sequences, cu_seqlens, most_rows=None):
    """Into how many parts the rows of each sequence are cut, none of more than `most_rows`."""
    B, H, N, _ = q.shape
    _, parts = configs.plan(kernel, q, DV, sequences * H, cu_seqlens)
    length = configs.cdiv(B * N, sequences)  # of a sequence, on average
    least = configs.cdiv(length, most_rows) if most_rows else 1
    return max(least, min(parts, configs.cdiv(length, UNIT.value)))


class Run:
    """One run over the rows: what all its kernels are launched with.

    q [B, H, N, D], k [B, Hk, N, D], v [B, Hk, N, Dv], any strides; decay [B, Hk, N] float32.
    `half` is 0 for the causal run, 1 and 2 for those of both directions.
    """

    def __init__(self, q, k, v, decay, cu_seqlens, feature_map, normalize, parts, half):
        self.q, self.k, self.v, self.decay, self.cu_seqlens = q, k, v, decay, cu_seqlens
        self.feature_map, self.normalize = feature_map, normalize
        self.parts, self.half = parts, half
        self.sequences = q.shape[0] if cu_seqlens is None else cu_seqlens.numel() - 1
        self.group = q.shape[1] // k.shape[1]

    def tile(self, kernel):
        """The tile of a kernel, and how many of them the values take."""
        arch, _ = configs.hardware(self.q.device)
        D, DV = self.q.shape[-1], self.v.shape[-1]
        tile = configs.tile(kernel, D, DV, self.q.dtype, arch)
        return tile, configs.cdiv(DV, tile.values)

    def constants(self, tile):
        return configs.constants(tile, self.q, self.v.shape[-1], self.feature_map, self.cu_seqlens)

    def states(self, initial, whole=False):
        """The state before each part [parts + 1, S, Hk, SIZE], and log decays of parts.

        With `whole` also the state after the last part, which takes one more sum. Without it,
        parts may be cut once more, so that every multiprocessor has as much as it can hold.
        """
        S, Hk, size = self.sequences, self.k.shape[1], self.k.shape[-1] * (self.v.shape[-1] + 1)
        cuts = 1
        if not whole and self.parts > 1:
            tile, tiles = self.tile("decay_state_kernel")
            rows = self.k.shape[0] * self.k.shape[2] // (S * self.parts)
            cuts = configs.cuts(tile, self.k.device, S * Hk * tiles * (self.parts - 1), rows)
        states = self.q.new_empty((self.parts * cuts + 1, S, Hk, size), dtype=torch.float32)
        totals = self.q.new_empty((self.parts * cuts, S, Hk), dtype=torch.float32)
        count = self.parts if whole else (self.parts - 1) * cuts
        self._sum(self.k, self.v, states, totals, None, None, 1.0, 1, 0, count, cuts)
        self._combine(states, totals, initial, 1, count, False)
        return states[::cuts], totals

    def gradients(self, do, inverse, r, dstate, totals, scale, whole):
        """The gradient of the state after each part [parts + 1, S, H, SIZE], by query head.

        The first of them, of the state before all parts, only with `whole`.
        """
        S, H, size = self.sequences, self.q.shape[1], self.k.shape[-1] * (self.v.shape[-1] + 1)
        states = self.q.new_empty((self.parts + 1, S, H, size), dtype=torch.float32)
        first = 0 if whole else 1
        count = self.parts - first
        self._sum(self.q, do, states, None, inverse, r, scale, self.group, first, count)
        self._combine(states, totals, dstate, self.group, count, True)
        return states

    def _sum(self, k, v, states, totals, weight, z_weight, scale, group, first, count, cuts=1):
        if count == 0:
            return
        tile, tiles = self.tile("decay_state_kernel")
        heads = states.shape[1] * states.shape[2]
        launch(
            decay_state_kernel, heads * count * tiles,
            (k, v, self.decay, states, totals, weight, z_weight, self.cu_seqlens),
            (*k.stride(), *v.stride(), *self.decay.stride()),
            stride_states=states.stride(0), N=k.shape[2], H=k.shape[1], heads=heads,
            parts=self.parts, cuts=cuts, first_cut=first, count=count, scale=scale, GROUP=group,
            NORMALIZE=self.normalize, BACKWARD=totals is None, REVERSE=self.half == 2,
            **self.constants(tile),
        )  # fmt: skip

    def _combine(self, states, totals, edge, group, count, backward):
        slots, S, heads, size = states.shape
        BLOCK = 256
        launch(
            decay_combine_kernel, S * heads * configs.cdiv(size, BLOCK),
            (states, totals, edge),
            stride_states=states.stride(0), parts=slots - 1, count=count, heads=S * heads,
            SIZE=size, BLOCK=BLOCK, GROUP=group, HAS_INITIAL=edge is not None, BACKWARD=backward,
            num_warps=2,
        )  # fmt: skip

    def sums(self, chunk, parts=None):
        """G of each row inside its chunk, [B, Hk, N] float32 in the order of the run, base 2.

        One program does one of `parts`, which have to be whole chunks.
        """
        B, Hk, N = self.decay.shape
        sums = self.q.new_empty((B, Hk, N), dtype=torch.float32)
        CHUNKS = max(1, 1024 // chunk)
        if parts is None:
            parts = configs.cdiv(configs.cdiv(B * N, self.sequences), CHUNKS * chunk)
        launch(
            decay_sums_kernel, self.sequences * Hk * parts,
            (self.decay, sums, self.cu_seqlens), self.decay.stride(),
            N=N, H=Hk, parts=parts, CHUNKS=CHUNKS, BLOCK_N=chunk,
            REVERSE=self.half == 2, PACKED=self.cu_seqlens is not None, num_warps=4,
        )  # fmt: skip
        return sums


def forward(
    q, k, v, initial, cu_seqlens, decay, is_causal, feature_map, normalize, scale, eps, save
):  # fmt: skip
    """o, the state after the last token, None unless causal, and 1 / d, None unless `save`.

    q [B, H, N, D], k [B, Hk, N, D], v [B, Hk, N, Dv], decay [B, Hk, N] float32, any strides;
    initial [S, Hk, D * Dv + D] float32 or None. Returns o [B, H, N, Dv], the state as `initial`,
    and 1 / d [B, H, N] float32, with which the backward pass begins.
    """
    B, H, N, D = q.shape
    Hk, DV = v.shape[1], v.shape[3]
    S = B if cu_seqlens is None else cu_seqlens.numel() - 1
    parts = parts_for("decay_output_kernel", q, DV, S, cu_seqlens)
    o = q.new_empty((B, H, N, DV))
    total = q.new_empty((S, Hk, D * DV + D), dtype=torch.float32) if is_causal else None
    above = below = inverse = None
    if not is_causal:
        above = q.new_empty((B, H, N, DV), dtype=torch.float32)
    if not is_causal and normalize:
        below = q.new_empty((B, H, N), dtype=torch.float32)
    if save and normalize:
        inverse = q.new_empty((B, H, N), dtype=torch.float32)
    chained = is_causal and normalize and cu_seqlens is None and configs.chained_is_faster(q, k, v)
    for half in (0,) if is_causal else (1, 2):
        run = Run(q, k, v, decay, cu_seqlens, feature_map, normalize, parts, half)
        tile, tiles = run.tile("decay_output_kernel")
        if chained:
            span = configs.CHAINED.segment
            run.parts, in_part = configs.parts_of_chain(N, UNIT.value)
            sums = run.sums(span, run.parts)
            states = q.new_empty((run.parts, S, Hk, D * DV + D), dtype=torch.float32)
            decay_chained.forward(
                q, k, v, sums, states, o, total, inverse, initial, in_part, feature_map, eps
            )
        else:
            span = tile.rows
            sums = run.sums(span)
            states, _ = run.states(initial)
        for fast in (False,) if chained else (True, False):  # each takes the parts that are its own
            launch(
                decay_output_kernel, S * H * run.parts * tiles,
                (q, k, v, sums, states, o, total, above, below, inverse, cu_seqlens),
                (*q.stride(), *k.stride(), *v.stride()),
                stride_states=states.stride(0), N=N, H=H, parts=run.parts, scale=scale, eps=eps,
                GROUP=run.group, NORMALIZE=normalize, HALF=half, SAVE=inverse is not None,
                FAST=fast, SPAN=span, **run.constants(tile),
            )  # fmt: skip
    return o, total, inverse
