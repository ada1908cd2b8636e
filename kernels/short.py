"""Bidirectional linear attention of a short sequence: both passes in one launch.

For a thousand tokens the host takes longer to launch the kernels of `bidirectional` than the GPU to
run them. Here one program sums the state of a whole head, keeps it, and writes all outputs. A GPU
with more multiprocessors than heads is not filled; that no longer matters when it waits for the
host.
"""

import torch
import triton
import triton.language as tl

from . import configs
from .bidirectional import load_tile, store_tile
from .feature_maps import phi_operand
from .launch import launch


@triton.jit
def short_kernel(
    q,  # [B, H, N, D]
    k,  # [B, H // GROUP, M, D]
    v,  # [B, H // GROUP, M, DV]
    o,  # [B, H, N, DV] contiguous, written
    initial,  # [B * H // GROUP, D * DV + D] float32; only if HAS_STATE
    total,  # [B * H // GROUP, D * DV + D] float32: state of all keys, written
    stride_qb, stride_qh, stride_qn, stride_qd,
    stride_kb, stride_kh, stride_kn, stride_kd,
    stride_vb, stride_vh, stride_vn, stride_vd,
    N, M, H, scale, eps,
    D: tl.constexpr, DV: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    FEATURE_MAP: tl.constexpr, NORMALIZE: tl.constexpr, FULL: tl.constexpr,
    HAS_STATE: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """S and z of one head, then o = φ(q) S / (φ(q)·z + eps) of all its rows."""
    TILES: tl.constexpr = (DV + BLOCK_DV - 1) // BLOCK_DV
    tile = tl.program_id(0) % TILES
    head = tl.program_id(0) // TILES
    h = head % H
    batch = (head // H).to(tl.int64)
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
        s = tl.load(initial + offset + offs_s, keep_s, 0.0)  # [BLOCK_D, BLOCK_DV]
        z = tl.load(initial + offset + offs_z, keep_z, 0.0)  # [BLOCK_D, 1]
    else:
        s = tl.zeros([BLOCK_D, BLOCK_DV], dtype=tl.float32)
        z = tl.zeros([BLOCK_D, 1], dtype=tl.float32)
    ones = tl.full([BLOCK_N, 1], 1.0, dtype=OPERAND)  # a sum over rows as a matrix product
    for n in range(0, M, BLOCK_N):
        rows = (n + offs_n).to(tl.int64)
        keep_kt = (offs_d[:, None] < D) & (rows[None, :] < M)
        keep_v = (rows[:, None] < M) & (offs_dv[None, :] < DV)
        # [BLOCK_D, BLOCK_N]
        b_kt = load_tile(k + offs_d[:, None] * stride_kd + rows[None, :] * stride_kn, keep_kt, FULL)
        # [BLOCK_N, BLOCK_DV]
        b_v = load_tile(v + rows[:, None] * stride_vn + offs_dv[None, :] * stride_vd, keep_v, FULL)
        fkt = phi_operand(b_kt, keep_kt, 0, FEATURE_MAP, FULL, OPERAND)
        s = tl.dot(fkt, b_v.to(OPERAND), s, input_precision=PRECISION)
        z = tl.dot(fkt, ones, z, input_precision=PRECISION)
    once = h % GROUP == 0
    tl.store(total + offset + offs_s, s, keep_s & once)
    tl.store(total + offset + offs_z, z, keep_z & once & (tile == 0))

    s_operand = s.to(OPERAND)
    z_operand = z.to(OPERAND)
    for n in range(0, N, BLOCK_N):
        rows = (n + offs_n).to(tl.int64)
        keep_q = (rows[:, None] < N) & (offs_d[None, :] < D)
        keep_o = (rows[:, None] < N) & (offs_dv[None, :] < DV)
        # [BLOCK_N, BLOCK_D]
        b_q = load_tile(q + rows[:, None] * stride_qn + offs_d[None, :] * stride_qd, keep_q, FULL)
        fq = phi_operand(b_q, keep_q, 1, FEATURE_MAP, FULL, OPERAND)
        b_o = tl.dot(fq, s_operand, input_precision=PRECISION)  # [BLOCK_N, BLOCK_DV]
        if NORMALIZE:
            b_o *= 1.0 / (tl.dot(fq, z_operand, input_precision=PRECISION) + eps)
        else:
            b_o *= scale
        store_tile(o + rows[:, None] * DV + offs_dv[None, :], b_o, keep_o, FULL)


def forward(q, k, v, initial, feature_map, normalize, scale, eps):
    """As `bidirectional.forward`, for sequences that are not packed."""
    B, H, N, D = q.shape
    Hk, M, DV = v.shape[1:]
    tile = configs.tile("output_kernel", D, DV, q.dtype, configs.hardware(q.device)[0])
    o = q.new_empty((B, H, N, DV))
    total = q.new_empty((B, Hk, D * DV + D), dtype=torch.float32)
    constants = dict(configs.constants(tile, q, DV, feature_map, None))
    constants["FULL"] &= M % tile.rows == 0
    del constants["PACKED"]
    launch(
        short_kernel, B * H * configs.cdiv(DV, tile.values), (q, k, v, o, initial, total),
        (*q.stride(), *k.stride(), *v.stride()),
        N=N, M=M, H=H, scale=scale, eps=eps, GROUP=H // Hk, NORMALIZE=normalize,
        HAS_STATE=initial is not None, **constants,
    )  # fmt: skip
    return o, total
