"""Bidirectional linear attention: every query sees every key.

Two passes over the rows, because nothing in the first depends on the queries:

    state pass    S = Σ φ(k) vᵀ,  z = Σ φ(k)          reads k and v
    output pass   o = φ(q) S / (φ(q)·z + eps)          reads q, writes o

The backward pass has the same shape, with queries and keys in each other's place:

    query pass    dq, and dS = Σ φ(q)ᵀ do / d,  dz     reads q and do, writes dq
    key pass      dk and dv, from dS and dz            reads k and v, writes dk and dv

S is small (D × Dv for each head) and stays on the chip during a pass; each pass reads every row
once. The rows of a head are cut into `parts` so that all multiprocessors have work; each part
leaves its own sum, and `combine_kernel`, or the output pass where there are few, adds them in a
fixed order: two runs agree to the last bit.

What all values have in common cancels in dq and dk, where there is a normalizer: it is taken out
before anything is rounded. With c a mean of the values, S - z cᵀ stands for S and v - c for v, and
dz is that of such values; `shift` translates where the gradient of a state comes in or goes out.

A state is stored flat, [..., D·Dv + D] float32: S row by row, then z.
Values wider than a tile are cut into `tiles`. One program sees the columns of one tile only, and
what the tiles contribute to dq or dk is summed afterwards.

Source: Katharopoulos et al., Transformers are RNNs, 2020; Shen et al., Efficient Attention, 2021.
"""

import torch
import triton
import triton.language as tl

from . import configs
from .feature_maps import phi_backward, phi_operand
from .launch import launch


@triton.jit
def sequence_of(cu_seqlens, b, N, PACKED: tl.constexpr):
    """First row and end of sequence b, and where its rows lie in the batch dimension."""
    if PACKED:
        # clamped: wrong bounds give wrong results but never a wild address
        start = tl.minimum(tl.maximum(tl.load(cu_seqlens + b), 0), N)
        end = tl.minimum(tl.maximum(tl.load(cu_seqlens + b + 1), start), N)
        batch = b * 0
    else:
        start = b * 0
        end = start + N
        batch = b
    return start, end, batch.to(tl.int64)


@triton.jit
def rows_of(start, end, part, parts, BLOCK_N: tl.constexpr):
    """The rows of one part: equal shares in whole blocks; the last may be short or empty."""
    share = tl.cdiv(tl.cdiv(end - start, parts), BLOCK_N) * BLOCK_N
    first = tl.minimum(start + part * share, end)
    return first, tl.minimum(first + share, end)


@triton.jit
def load_tile(pointers, keep, FULL: tl.constexpr):
    """A tile of rows, zero where `keep` is false; FULL: nothing is, so that no mask is computed."""
    if FULL:
        tile = tl.load(pointers)
    else:
        tile = tl.load(pointers, keep, 0.0)
    return tile


@triton.jit
def store_tile(pointers, tile, keep, FULL: tl.constexpr):
    """Stores a tile of rows in the dtype of the tensor, where `keep` is true."""
    if FULL:
        tl.store(pointers, tile.to(pointers.dtype.element_ty))
    else:
        tl.store(pointers, tile.to(pointers.dtype.element_ty), keep)


@triton.jit
def dot(a, b, PRECISION: tl.constexpr, acc=None):
    """The product of a [M, K] and b [K, N], both of the same dtype, in float32, added to acc.

    Tensor cores do not multiply float32. Without them a thread holds whole rows of a and columns of
    b, more than there are registers if they are long: there, what has one row or column is a sum,
    and a product over many features is one over a few at a time.
    """
    M: tl.constexpr = a.shape[0]
    K: tl.constexpr = a.shape[1]
    N: tl.constexpr = b.shape[1]
    FEW: tl.constexpr = 16
    if PRECISION != "ieee" or (M > 1 and N > 1 and K <= 2 * FEW):
        y = tl.dot(a, b, acc, input_precision=PRECISION)
    else:
        if N == 1:
            y = tl.sum(a * tl.trans(b), axis=1, keep_dims=True)
        elif M == 1:
            y = tl.sum(tl.trans(a) * b, axis=0, keep_dims=True)
        else:
            a = tl.permute(tl.reshape(a, [M, K // FEW, FEW]), (1, 0, 2))
            b = tl.reshape(b, [K // FEW, FEW, N])
            y = tl.sum(tl.dot(a, b, input_precision=PRECISION), axis=0)
        if acc is not None:
            y += acc
    return y


# [state-kernel:begin]
@triton.jit(do_not_specialize_on_alignment=["parts", "cuts", "first_sum", "sums"])
def state_kernel(
    k,  # [B, H, N, D]
    v,  # [B, H, N, DV]
    states,  # [parts * cuts, B * H, D * DV + D] float32, `sums` written from `first_sum` on
    weight,  # [B, H, N] float32: multiplies φ(k); only if WEIGHTED
    z_weight,  # [B, H, N] float32: multiplies φ(k) once more in z; only if WEIGHTED
    cu_seqlens,  # [B + 1] int32; only if PACKED
    stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd,
    stride_states, N, H, parts, cuts, first_sum, sums,
    D: tl.constexpr, DV: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    FEATURE_MAP: tl.constexpr, WEIGHTED: tl.constexpr, PACKED: tl.constexpr, FULL: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """S = Σ φ(k) vᵀ and z = Σ φ(k) over one cut of one part of the rows of one head."""
    TILES: tl.constexpr = (DV + BLOCK_DV - 1) // BLOCK_DV
    tile = tl.program_id(0) % TILES
    index = first_sum + tl.program_id(0) // TILES % sums
    head = tl.program_id(0) // TILES // sums
    h = head % H
    start, end, batch = sequence_of(cu_seqlens, head // H, N, PACKED)
    first, last = rows_of(start, end, index // cuts, parts, BLOCK_N)
    first, last = rows_of(first, last, index % cuts, cuts, BLOCK_N)

    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    offs_dv = tile * BLOCK_DV + tl.arange(0, BLOCK_DV)
    k += batch * stride_kb + h.to(tl.int64) * stride_kh
    v += batch * stride_vb + h.to(tl.int64) * stride_vh

    s = tl.zeros([BLOCK_D, BLOCK_DV], dtype=tl.float32)
    z = tl.zeros([BLOCK_D, 1], dtype=tl.float32)
    ones = tl.full([BLOCK_N, 1], 1.0, dtype=OPERAND)  # a sum over rows as a matrix product
    blocks = tl.cdiv(last - first, BLOCK_N)
    for i in range(0, blocks):
        # last to first: the next pass begins with rows that are then newest in the L2
        n = first + (i if WEIGHTED else blocks - 1 - i) * BLOCK_N
        rows = (n + offs_n).to(tl.int64)
        keep_k = (offs_d[:, None] < D) & (rows[None, :] < last)
        keep_v = (rows[:, None] < last) & (offs_dv[None, :] < DV)
        # [BLOCK_D, BLOCK_N]: transposed by its addresses, which costs nothing
        b_k = load_tile(k + offs_d[:, None] * stride_kd + rows[None, :] * stride_kn, keep_k, FULL)
        # [BLOCK_N, BLOCK_DV]
        b_v = load_tile(v + rows[:, None] * stride_vn + offs_dv[None, :] * stride_vd, keep_v, FULL)
        fk = phi_operand(b_k, keep_k, 0, FEATURE_MAP, FULL, OPERAND)
        if WEIGHTED:
            row = (batch * H + h) * N + rows
            b_w = tl.load(weight + row, rows < last, 0.0)  # [BLOCK_N]
            w_z = tl.load(z_weight + row, rows < last, 0.0)  # [BLOCK_N]
            fk = (fk.to(tl.float32) * b_w[None, :]).to(OPERAND)
            z = dot(fk, w_z[:, None].to(OPERAND), PRECISION, z)
        else:
            z = dot(fk, ones, PRECISION, z)
        s = dot(fk, b_v.to(OPERAND), PRECISION, s)

    states += index.to(tl.int64) * stride_states + head.to(tl.int64) * (D * DV + D)
    keep_s = (offs_d[:, None] < D) & (offs_dv[None, :] < DV)
    tl.store(states + offs_d[:, None] * DV + offs_dv[None, :], s, keep_s)
    tl.store(states + D * DV + offs_d, tl.sum(z, axis=1), (offs_d < D) & (tile == 0))
    # [state-kernel:end]


# [combine-kernel:begin]
@triton.jit(do_not_specialize_on_alignment=["parts", "sums"])
def combine_kernel(
    states,  # [parts, heads, SIZE] float32; if PREFIX, part i becomes what came before it
    initial,  # [heads, SIZE] float32; only if HAS_INITIAL
    total,  # [heads, SIZE] float32, written unless PREFIX
    stride_states, parts, sums,
    SIZE: tl.constexpr, BLOCK: tl.constexpr,
    HAS_INITIAL: tl.constexpr, PREFIX: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Adds up the states of all parts, first to last (or last to first if REVERSE)."""
    BLOCKS: tl.constexpr = (SIZE + BLOCK - 1) // BLOCK
    head = (tl.program_id(0) // BLOCKS).to(tl.int64)
    offs = tl.program_id(0) % BLOCKS * BLOCK + tl.arange(0, BLOCK)
    keep = offs < SIZE
    offset = head * SIZE + offs
    if HAS_INITIAL:
        carry = tl.load(initial + offset, keep, 0.0)  # [BLOCK]
    else:
        carry = tl.zeros([BLOCK], dtype=tl.float32)
    for i in tl.range(0, parts, num_stages=8):
        part = parts - 1 - i if REVERSE else i
        here = states + part.to(tl.int64) * stride_states + offset
        if PREFIX:  # nothing comes after the last ones, and their sums were not computed
            state = tl.load(here, keep & (i < sums), 0.0)  # [BLOCK]
            tl.store(here, carry, keep)
        else:
            state = tl.load(here, keep, 0.0)  # [BLOCK]
        carry += state
    if not PREFIX:
        tl.store(total + offset, carry, keep)
    # [combine-kernel:end]


# [output-kernel:begin]
@triton.jit(do_not_specialize_on_alignment=["sums", "parts"])
def output_kernel(
    q,  # [B, H, N, D]
    o,  # [B, H, N, DV] contiguous, written
    states,  # [sums, B * H // GROUP, D * DV + D] float32: what S and z are the sum of
    initial,  # [B * H // GROUP, D * DV + D] float32, to be added; only if HAS_INITIAL
    total,  # [B * H // GROUP, D * DV + D] float32: that sum, written if KEEP
    cu_seqlens,  # [B + 1] int32; only if PACKED
    stride_qb, stride_qh, stride_qn, stride_qd,
    stride_states, sums, N, H, parts, scale, eps,
    D: tl.constexpr, DV: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    FEATURE_MAP: tl.constexpr, NORMALIZE: tl.constexpr, PACKED: tl.constexpr, FULL: tl.constexpr,
    HAS_INITIAL: tl.constexpr, KEEP: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """o = φ(q) S / (φ(q)·z + eps) for one part of the rows of one head."""
    TILES: tl.constexpr = (DV + BLOCK_DV - 1) // BLOCK_DV
    AT_ONCE: tl.constexpr = 4 if BLOCK_D * BLOCK_DV <= 4096 else 1  # states, as registers allow
    tile = tl.program_id(0) % TILES
    part = tl.program_id(0) // TILES % parts
    head = tl.program_id(0) // TILES // parts
    h = head % H
    start, end, batch = sequence_of(cu_seqlens, head // H, N, PACKED)
    first, last = rows_of(start, end, part, parts, BLOCK_N)

    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    offs_dv = tile * BLOCK_DV + tl.arange(0, BLOCK_DV)
    q += batch * stride_qb + h.to(tl.int64) * stride_qh
    o += (batch * H + h) * N * DV
    offset = (head // GROUP).to(tl.int64) * (D * DV + D)
    offs_s = offs_d[:, None] * DV + offs_dv[None, :]
    offs_z = D * DV + offs_d[:, None]
    keep_s = (offs_d[:, None] < D) & (offs_dv[None, :] < DV)
    keep_z = offs_d[:, None] < D

    if HAS_INITIAL:
        s = tl.load(initial + offset + offs_s, keep_s, 0.0)  # [BLOCK_D, BLOCK_DV]
        z = tl.load(initial + offset + offs_z, keep_z, 0.0)  # [BLOCK_D, 1]
    else:
        s = tl.zeros([BLOCK_D, BLOCK_DV], dtype=tl.float32)
        z = tl.zeros([BLOCK_D, 1], dtype=tl.float32)
    for i in tl.range(0, sums, num_stages=1, loop_unroll_factor=AT_ONCE):
        here = states + tl.cast(i, tl.int64) * stride_states + offset
        s += tl.load(here + offs_s, keep_s, 0.0)  # [BLOCK_D, BLOCK_DV]
        z += tl.load(here + offs_z, keep_z, 0.0)  # [BLOCK_D, 1]
    if KEEP:
        once = (part == 0) & (h % GROUP == 0)
        tl.store(total + offset + offs_s, s, keep_s & once)
        tl.store(total + offset + offs_z, z, keep_z & once & (tile == 0))
    s = s.to(OPERAND)
    z = z.to(OPERAND)
    for n in range(first, last, BLOCK_N):
        rows = (n + offs_n).to(tl.int64)
        keep_q = (rows[:, None] < last) & (offs_d[None, :] < D)
        # [BLOCK_N, BLOCK_D]
        b_q = load_tile(q + rows[:, None] * stride_qn + offs_d[None, :] * stride_qd, keep_q, FULL)
        fq = phi_operand(b_q, keep_q, 1, FEATURE_MAP, FULL, OPERAND)
        b_o = dot(fq, s, PRECISION)  # [BLOCK_N, BLOCK_DV]
        if NORMALIZE:
            b_o *= 1.0 / (dot(fq, z, PRECISION) + eps)
        else:
            b_o *= scale
        keep_o = (rows[:, None] < last) & (offs_dv[None, :] < DV)
        store_tile(o + rows[:, None] * DV + offs_dv[None, :], b_o, keep_o, FULL)
    # [output-kernel:end]


# [mean:begin]
@triton.jit
def rounded(x, OPERAND: tl.constexpr, PRECISION: tl.constexpr):
    """float32 x as a product takes it: of a float32 operand, tf32 leaves off the last 13 bits."""
    if OPERAND == tl.float32 and PRECISION == "tf32":
        return (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)
    else:
        return x.to(OPERAND)


@triton.jit
def mean_of(st, z, OPERAND: tl.constexpr, PRECISION: tl.constexpr):
    """c [BLOCK_DV] float32, a mean of the values, `rounded`; of Sᵀ [BLOCK_DV, BLOCK_D] and z.

    Sᵀz / z·z is the c that leaves least of S - z cᵀ. It is 0 where z is, where a feature is
    negative, so that its sum is no sum of weights, and where it is not finite.
    """
    z = z[None, :]  # [1, BLOCK_D]
    top = tl.max(z, axis=1)  # [1]
    some = (tl.min(z, axis=1) >= 0) & (top > 0)
    unit = z / tl.where(some, top, 1.0)[:, None]  # whose square neither overflows nor vanishes
    c = tl.sum(st * unit, axis=1) / (tl.sum(unit * unit, axis=1) * top)  # [BLOCK_DV]
    c = tl.where(some & (tl.abs(c) < float("inf")), c, 0.0)
    return rounded(c, OPERAND, PRECISION).to(tl.float32)
    # [mean:end]


@triton.jit
def mean_kernel(
    state,  # [B * H, D * DV + D] float32
    mean,  # [B * H, DV] float32, written: c
    D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """c of some columns of the values of one head."""
    TILES: tl.constexpr = (DV + BLOCK_DV - 1) // BLOCK_DV
    head = (tl.program_id(0) // TILES).to(tl.int64)
    offs_d = tl.arange(0, BLOCK_D)
    offs_dv = tl.program_id(0) % TILES * BLOCK_DV + tl.arange(0, BLOCK_DV)
    state += head * (D * DV + D)
    keep_st = (offs_dv[:, None] < DV) & (offs_d[None, :] < D)
    # [BLOCK_DV, BLOCK_D]
    st = tl.load(state + offs_dv[:, None] + offs_d[None, :] * DV, keep_st, 0.0)
    z = tl.load(state + D * DV + offs_d, offs_d < D, 0.0)  # [BLOCK_D]
    tl.store(mean + head * DV + offs_dv, mean_of(st, z, OPERAND, PRECISION), offs_dv < DV)


# [backward-query-kernel:begin]
@triton.jit(do_not_specialize_on_alignment=["parts"])
def backward_query_kernel(
    q,  # [B, H, N, D]
    do,  # [B, H, N, DV]
    state,  # [B, H // GROUP, D * DV + D] float32
    dq,  # [tiles, B, H, N, D] contiguous, written
    mean,  # [B, H // GROUP, DV] float32: c; only if NORMALIZE
    dstates,  # [parts, B * H, D * DV + tiles * D] float32, written
    cu_seqlens,  # [B + 1] int32; only if PACKED
    stride_qb, stride_qh, stride_qn, stride_qd,
    stride_ob, stride_oh, stride_on, stride_od,
    stride_dq, stride_dstates, N, H, parts, scale, eps,
    D: tl.constexpr, DV: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    FEATURE_MAP: tl.constexpr, NORMALIZE: tl.constexpr, PACKED: tl.constexpr, FULL: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq, and each part's share of dS = Σ φ(q)ᵀ do / d and dz = -Σ φ(q) (do·(o - c)) / d.

    With a = S do, the derivative of φ(q)·a / d is a / d - (φ(q)·a / d²) z: the second term is the
    gradient through the denominator. φ(q)·a is do·(o d), so o need not be read. S stands for
    S - z cᵀ, of which φ(q)·a is do·((o - c) d + eps c).
    """
    TILES: tl.constexpr = (DV + BLOCK_DV - 1) // BLOCK_DV
    WIDE: tl.constexpr = BLOCK_D > 64  # registers for dz are then scarce
    tile = tl.program_id(0) % TILES
    part = tl.program_id(0) // TILES % parts
    head = tl.program_id(0) // TILES // parts
    h = head % H
    start, end, batch = sequence_of(cu_seqlens, head // H, N, PACKED)
    first, last = rows_of(start, end, part, parts, BLOCK_N)

    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, BLOCK_D)
    offs_dv = tile * BLOCK_DV + tl.arange(0, BLOCK_DV)
    q += batch * stride_qb + h.to(tl.int64) * stride_qh
    do += batch * stride_ob + h.to(tl.int64) * stride_oh
    dq += tile.to(tl.int64) * stride_dq + (batch * H + h) * N * D
    state += (head // GROUP).to(tl.int64) * (D * DV + D)

    keep_st = (offs_dv[:, None] < DV) & (offs_d[None, :] < D)
    # [BLOCK_DV, BLOCK_D]
    st = tl.load(state + offs_dv[:, None] + offs_d[None, :] * DV, keep_st, 0.0)
    z = tl.load(state + D * DV + offs_d, offs_d < D, 0.0)  # [BLOCK_D]
    z_column = z[:, None].to(OPERAND)
    if NORMALIZE:
        mean += (head // GROUP).to(tl.int64) * DV
        c = tl.load(mean + offs_dv, offs_dv < DV, 0.0)  # [BLOCK_DV]
        c_column = c[:, None].to(OPERAND)
        st -= c[:, None] * z[None, :]
    st = st.to(OPERAND)
    ds = tl.zeros([BLOCK_D, BLOCK_DV], dtype=tl.float32)
    if WIDE:
        dz = tl.zeros([BLOCK_D, 1], dtype=tl.float32)
    else:  # its rows are added up once, at the end
        dz = tl.zeros([BLOCK_N, BLOCK_D], dtype=tl.float32)
    for n in range(first, last, BLOCK_N):
        rows = (n + offs_n).to(tl.int64)
        keep_q = (rows[:, None] < last) & (offs_d[None, :] < D)
        keep_o = (rows[:, None] < last) & (offs_dv[None, :] < DV)
        # [BLOCK_N, BLOCK_D]
        b_q = load_tile(q + rows[:, None] * stride_qn + offs_d[None, :] * stride_qd, keep_q, FULL)
        # [BLOCK_N, BLOCK_DV]
        b_do = load_tile(
            do + rows[:, None] * stride_on + offs_dv[None, :] * stride_od, keep_o, FULL
        )
        fq_operand = phi_operand(b_q, keep_q, 1, FEATURE_MAP, FULL, OPERAND)
        fq = fq_operand.to(tl.float32)
        a = dot(b_do.to(OPERAND), st, PRECISION)  # [BLOCK_N, BLOCK_D]
        if NORMALIZE:
            d = tl.sum(dot(fq_operand, z_column, PRECISION), axis=1)  # [BLOCK_N]
            g = 1.0 / (d + eps)
            g = tl.where(rows < last, g, 0.0)  # a row past the end has φ(q)·z = 0
            c_do = tl.sum(dot(b_do.to(OPERAND), c_column, PRECISION), axis=1)
            r = (eps * c_do - tl.sum(fq * a, axis=1)) * g  # [BLOCK_N]
            dfq = (a + r[:, None] * z[None, :]) * g[:, None]
            fq_g = fq * g[:, None]
            if WIDE:
                fq_gt = tl.trans(fq_g).to(OPERAND)
                dz = dot(fq_gt, r[:, None].to(OPERAND), PRECISION, dz)
            else:
                dz += fq_g * r[:, None]
        else:
            dfq = a * scale
            fq_g = fq * scale
        b_dq = phi_backward(fq, dfq, 1, FEATURE_MAP)
        store_tile(dq + rows[:, None] * D + offs_d[None, :], b_dq, keep_q, FULL)
        ds = dot(tl.trans(fq_g).to(OPERAND), b_do.to(OPERAND), PRECISION, ds)

    dstates += part.to(tl.int64) * stride_dstates + head.to(tl.int64) * (D * DV + TILES * D)
    keep_s = (offs_d[:, None] < D) & (offs_dv[None, :] < DV)
    tl.store(dstates + offs_d[:, None] * DV + offs_dv[None, :], ds, keep_s)
    dz = tl.sum(dz, axis=1 if WIDE else 0)  # [BLOCK_D]
    tl.store(dstates + D * DV + tile * D + offs_d, dz, offs_d < D)
    # [backward-query-kernel:end]


# [backward-key-kernel:begin]
@triton.jit(do_not_specialize_on_alignment=["parts"])
def backward_key_kernel(
    k,  # [B, H, N, D]
    v,  # [B, H, N, DV]
    mean,  # [B, H, DV] float32: c; only if NORMALIZE
    dstate,  # [B, H, D * DV + D] float32: dS, and dz of the values v - c
    dk,  # [tiles, B, H, N, D] contiguous, written
    dv,  # [B, H, N, DV] contiguous, written
    cu_seqlens,  # [B + 1] int32; only if PACKED
    stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd,
    stride_dk, N, H, parts,
    D: tl.constexpr, DV: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    FEATURE_MAP: tl.constexpr, NORMALIZE: tl.constexpr, PACKED: tl.constexpr, FULL: tl.constexpr,
    OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dφ(k) = (v - c) dSᵀ + dz and dv = φ(k) dS for one part of the rows of one head.

    c dSᵀ is taken out of dz instead, with dS as the product takes it: all of it then cancels.
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
    k += batch * stride_kb + h.to(tl.int64) * stride_kh
    v += batch * stride_vb + h.to(tl.int64) * stride_vh
    dk += tile.to(tl.int64) * stride_dk + (batch * H + h) * N * D
    dv += (batch * H + h) * N * DV
    dstate += head.to(tl.int64) * (D * DV + D)

    keep_s = (offs_d[:, None] < D) & (offs_dv[None, :] < DV)
    keep_st = (offs_dv[:, None] < DV) & (offs_d[None, :] < D)
    # both ways round, from memory: transposing registers would cost more
    ds = tl.load(dstate + offs_d[:, None] * DV + offs_dv[None, :], keep_s, 0.0).to(OPERAND)
    dst = tl.load(dstate + offs_dv[:, None] + offs_d[None, :] * DV, keep_st, 0.0)
    dst = rounded(dst, OPERAND, PRECISION)
    dz = tl.load(dstate + D * DV + offs_d, (offs_d < D) & (tile == 0), 0.0)  # [BLOCK_D]
    if NORMALIZE:
        c = tl.load(mean + head.to(tl.int64) * DV + offs_dv, offs_dv < DV, 0.0)  # [BLOCK_DV]
        dz -= tl.sum(dst.to(tl.float32) * c[:, None], axis=0)
    for n in range(first, last, BLOCK_N):
        rows = (n + offs_n).to(tl.int64)
        keep_k = (rows[:, None] < last) & (offs_d[None, :] < D)
        keep_v = (rows[:, None] < last) & (offs_dv[None, :] < DV)
        # [BLOCK_N, BLOCK_D]
        b_k = load_tile(k + rows[:, None] * stride_kn + offs_d[None, :] * stride_kd, keep_k, FULL)
        # [BLOCK_N, BLOCK_DV]
        b_v = load_tile(v + rows[:, None] * stride_vn + offs_dv[None, :] * stride_vd, keep_v, FULL)
        fk = phi_operand(b_k, keep_k, 1, FEATURE_MAP, FULL, OPERAND)
        dfk = dot(b_v.to(OPERAND), dst, PRECISION) + dz[None, :]
        b_dk = phi_backward(fk.to(tl.float32), dfk, 1, FEATURE_MAP)
        b_dv = dot(fk, ds, PRECISION)
        store_tile(dk + rows[:, None] * D + offs_d[None, :], b_dk, keep_k, FULL)
        store_tile(dv + rows[:, None] * DV + offs_dv[None, :], b_dv, keep_v, FULL)
    # [backward-key-kernel:end]


# [shift-kernel:begin]
@triton.jit
def shift_kernel(
    dstate,  # [B * H, D * DV + D] float32
    mean,  # [B * H // GROUP, DV] float32: c
    shifted,  # [B * H, D * DV + D] float32, written
    sign,
    D: tl.constexpr, DV: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
):  # fmt: skip
    """dS as it is, and dz ± dS c: dz of values from which c was taken (+), or to which it was."""
    head = tl.program_id(0).to(tl.int64)
    dstate += head * (D * DV + D)
    shifted += head * (D * DV + D)
    offs_d = tl.arange(0, BLOCK_D)
    offs_z = D * DV + offs_d
    dz = tl.load(dstate + offs_z, offs_d < D, 0.0)  # [BLOCK_D]
    for first in range(0, DV, BLOCK_DV):
        offs_dv = first + tl.arange(0, BLOCK_DV)
        offs_s = offs_d[:, None] * DV + offs_dv[None, :]
        keep_s = (offs_d[:, None] < D) & (offs_dv[None, :] < DV)
        ds = tl.load(dstate + offs_s, keep_s, 0.0)  # [BLOCK_D, BLOCK_DV]
        c = tl.load(mean + head // GROUP * DV + offs_dv, offs_dv < DV, 0.0)  # [BLOCK_DV]
        dz += sign * tl.sum(ds * c[None, :], axis=1)
        tl.store(shifted + offs_s, ds, keep_s)
    tl.store(shifted + offs_z, dz, offs_d < D)
    # [shift-kernel:end]


def launch_state(k, v, states, tile, feature_map, cu_seqlens, *, weights=None, skip=None, cuts=1):
    """Runs `state_kernel`: states [parts * cuts, S, H, D * Dv + D] float32 of k [B, H, N, D] and v.

    `skip` is "first" or "last": the part whose sums nobody needs.
    """
    DV = v.shape[-1]
    sums, S, H, _ = states.shape
    parts = sums // cuts
    if skip:
        sums -= cuts
    launch(
        state_kernel, S * H * sums * configs.cdiv(DV, tile.values),
        (k, v, states, *(weights or (None, None)), cu_seqlens), (*k.stride(), *v.stride()),
        stride_states=states.stride(0), N=k.shape[2], H=H,
        parts=parts, cuts=cuts, first_sum=cuts if skip == "first" else 0, sums=sums,
        WEIGHTED=weights is not None,
        **configs.constants(tile, k, DV, feature_map, cu_seqlens),
    )  # fmt: skip


def combine(states, initial=None):
    """Adds states [parts, S, H, SIZE] in order onto initial [S, H, SIZE] -> total [S, H, SIZE]."""
    if states.shape[0] == 1 and initial is None:
        return states[0]
    total = torch.empty_like(states[0])
    launch_combine(states, initial, total)
    return total


def launch_combine(states, initial, total=None, *, reverse=False, missing=1):
    """Runs `combine_kernel`; without `total`, states[i] becomes the sum of all that came before it.

    states [parts, S, H, SIZE], initial and total [S, H, SIZE] float32. With `reverse`, what comes
    after counts as before. Without `total` the last `missing` of the states are not read.
    """
    parts, S, H, SIZE = states.shape
    BLOCK = 256
    launch(
        combine_kernel, S * H * configs.cdiv(SIZE, BLOCK), (states, initial, total),
        stride_states=states.stride(0), parts=parts, sums=parts - missing,
        SIZE=SIZE, BLOCK=BLOCK,
        HAS_INITIAL=initial is not None, PREFIX=total is None, REVERSE=reverse,
        num_warps=2,
    )  # fmt: skip


def mean_of_values(state, DV, dtype, normalize):
    """c [S, H, Dv] float32 of state [S, H, D * Dv + D]; None where nothing is to be taken out.

    It is a number that a product of operands of q's dtype takes whole.
    """
    if not normalize:
        return None
    S, H, SIZE = state.shape
    D, BLOCK_DV = SIZE // (DV + 1), 16
    mean = state.new_empty((S, H, DV))
    launch(
        mean_kernel, S * H * configs.cdiv(DV, BLOCK_DV), (state, mean),
        D=D, DV=DV, BLOCK_D=triton.next_power_of_2(D), BLOCK_DV=BLOCK_DV,
        **configs.OPERANDS[dtype],
    )  # fmt: skip
    return mean


def shift(dstate, mean, sign):
    """dstate [S, H, D * Dv + D] with dz + sign · dS c for dz; c is mean [S, Hk, Dv], or None.

    dφ(k) = dS v + dz = dS (v - c) + (dz + dS c): the gradient of the state that sums values from
    which c was taken has another dz (sign 1: to that one; -1: back).
    """
    if mean is None:
        return dstate
    S, H, SIZE = dstate.shape
    DV = mean.shape[2]
    D = SIZE // (DV + 1)
    shifted = torch.empty_like(dstate)
    launch(
        shift_kernel, S * H, (dstate, mean, shifted), sign=sign,
        D=D, DV=DV, GROUP=H // mean.shape[1], BLOCK_D=triton.next_power_of_2(D), BLOCK_DV=16,
    )  # fmt: skip
    return shifted


def forward(q, k, v, initial, cu_seqlens, feature_map, normalize, scale, eps, keep=True):
    """o [B, H, N, Dv] in q's dtype and the state [S, Hk, D * Dv + D] float32, None unless `keep`.

    q [B, H, N, D], k [B, Hk, M, D], v [B, Hk, M, Dv], any strides; initial [S, Hk, D * Dv + D]
    float32 or None; S is B, or the number of packed sequences.
    """
    B, H, N, D = q.shape
    Hk, DV = v.shape[1], v.shape[3]
    S = B if cu_seqlens is None else cu_seqlens.numel() - 1
    tile, parts = configs.plan("state_kernel", k, DV, S * Hk, cu_seqlens)
    states = k.new_empty((parts, S, Hk, D * DV + D), dtype=torch.float32)
    launch_state(k, v, states, tile, feature_map, cu_seqlens)
    total = None
    if parts * D * DV > configs.FEW and parts > 1:  # so many that each should be read once only
        total = combine(states, initial)
        states, initial, keep_now = total.unsqueeze(0), None, False
    elif parts == 1 and initial is None:
        total, keep_now = states[0], False
    else:
        keep_now = keep
        total = torch.empty_like(states[0]) if keep else None

    o = q.new_empty((B, H, N, DV))
    launch_output(
        q, o, states, initial, total if keep_now else None,
        cu_seqlens, feature_map, normalize, scale, eps,
    )  # fmt: skip
    return o, total if keep else None


def launch_output(
    q, o, states, initial, total, cu_seqlens, feature_map, normalize, scale, eps
):  # fmt: skip
    """Runs `output_kernel`: o [B, H, N, Dv] of q [B, H, N, D] and what S and z are the sum of.

    states [sums, S, Hk, D * Dv + D] and initial, one such sum or None, float32; total takes their
    sum, unless it is None.
    """
    _, H, N, _ = q.shape
    DV = o.shape[3]
    _, S, Hk, _ = states.shape
    tile, parts = configs.plan("output_kernel", q, DV, S * H, cu_seqlens)
    launch(
        output_kernel, S * H * parts * configs.cdiv(DV, tile.values),
        (q, o, states, initial, total, cu_seqlens), q.stride(),
        stride_states=states.stride(0), sums=states.shape[0], N=N, H=H, parts=parts,
        scale=scale, eps=eps, GROUP=H // Hk, NORMALIZE=normalize,
        HAS_INITIAL=initial is not None, KEEP=total is not None,
        **configs.constants(tile, q, DV, feature_map, cu_seqlens),
    )  # fmt: skip


def backward(
    q, k, v, initial, state, do, dstate, cu_seqlens, feature_map, normalize, scale, eps
):  # fmt: skip
    """dq, dk, dv in q's dtype and the gradient of the initial state, None where there is none.

    That is [S, Hk, D * Dv + D] float32. state is what `forward` returned, do [B, H, N, Dv] has any
    strides, dstate is the gradient of the returned state or None.
    """
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
    mean = mean_of_values(state, v.shape[3], q.dtype, normalize)
    total = query_gradients(q, state, mean, do, dq, cu_seqlens, feature_map, normalize, scale, eps)
    if dstate is not None:
        total = total + shift(dstate, mean, 1.0)
    key_gradients(k, v, mean, total, dk, dv, cu_seqlens, feature_map)
    return dq, dk, dv, None if initial is None else shift(total, mean, -1.0)


def query_gradients(q, state, mean, do, dq, cu_seqlens, feature_map, normalize, scale, eps):
    """Writes dq [B, H, N, D]; returns what these rows add to the state's gradient, shaped as it.

    mean is that of the values, by `mean_of_values`; dz is that of values less it.
    """
    _, H, N, D = q.shape
    S, Hk, DV = *state.shape[:2], do.shape[3]
    tile, parts = configs.plan("backward_query_kernel", q, DV, S * H, cu_seqlens)
    tiles = configs.cdiv(DV, tile.values)
    dq_tiles = tiles_of(dq, tiles)
    dstates = q.new_empty((parts, S, H, D * DV + tiles * D), dtype=torch.float32)
    launch(
        backward_query_kernel, S * H * parts * tiles,
        (q, do, state, dq_tiles, mean, dstates, cu_seqlens), (*q.stride(), *do.stride()),
        stride_dq=dq_tiles.stride(0), stride_dstates=dstates.stride(0),
        N=N, H=H, parts=parts, scale=scale, eps=eps, GROUP=H // Hk, NORMALIZE=normalize,
        **configs.constants(tile, q, DV, feature_map, cu_seqlens),
    )  # fmt: skip
    total = combine(dstates)
    if tiles > 1:
        dz = total[..., D * DV :].unflatten(-1, (tiles, D)).sum(-2)
        total = torch.cat([total[..., : D * DV], dz], dim=-1)
    if H > Hk:
        total = total.unflatten(1, (Hk, H // Hk)).sum(2)
    add_tiles(dq_tiles, dq)
    return total


def key_gradients(k, v, mean, dstate, dk, dv, cu_seqlens, feature_map):
    """Writes dk [B, H, N, D] and dv [B, H, N, Dv]; dstate [S, H, D * Dv + D] float32.

    mean [S, H, Dv] float32 is what dstate is less of, or None.
    """
    _, H, N, _ = k.shape
    S, DV = dstate.shape[0], v.shape[3]
    tile, parts = configs.plan("backward_key_kernel", k, DV, S * H, cu_seqlens)
    tiles = configs.cdiv(DV, tile.values)
    dk_tiles = tiles_of(dk, tiles)
    launch(
        backward_key_kernel, S * H * parts * tiles,
        (k, v, mean, dstate, dk_tiles, dv, cu_seqlens), (*k.stride(), *v.stride()),
        stride_dk=dk_tiles.stride(0), N=N, H=H, parts=parts, NORMALIZE=mean is not None,
        **configs.constants(tile, k, DV, feature_map, cu_seqlens),
    )  # fmt: skip
    add_tiles(dk_tiles, dk)


def sum_tiles(x, dtype):
    """x [tiles, ...] -> [...] in dtype."""
    return x[0] if x.shape[0] == 1 else x.sum(0).to(dtype)


def tiles_of(x, tiles):
    """Where the tiles of values write what they contribute to x, [tiles, *x.shape].

    It is summed in float32 and rounded once; a single tile writes x itself.
    """
    return x.unsqueeze(0) if tiles == 1 else x.new_empty((tiles, *x.shape), dtype=torch.float32)


def add_tiles(contributions, x):
    """Makes x the sum of what `tiles_of` gave room for."""
    if contributions.shape[0] > 1:
        x.copy_(contributions.sum(0))
