"""One token of causal linear attention on the recurrent state: constant time and memory for any N.

    S ← S + φ(k) vᵀ,   z ← z + φ(k),   o = φ(q)ᵀ S / (φ(q)·z + eps)

With a decay, S and z are multiplied by exp(g) first.

Source: Katharopoulos et al., Transformers are RNNs, 2020.
"""

import torch
import triton
import triton.language as tl

from . import configs
from .feature_maps import phi
from .launch import launch


# [step-kernel:begin]
@triton.jit
def step_kernel(
    q,  # [B, H, D]
    k,  # [B, H // GROUP, D]
    v,  # [B, H // GROUP, DV]
    kv,  # [B, H // GROUP, D, DV] float32
    z,  # [B, H // GROUP, D] float32
    decay,  # [B, H // GROUP] float32, log of a factor; only if HAS_DECAY
    o,  # [B, H, DV] contiguous, written
    new_kv,  # [B, H // GROUP, D, DV] float32 contiguous, written
    new_z,  # [B, H // GROUP, D] float32 contiguous, written
    stride_qb, stride_qh, stride_qd,
    stride_kb, stride_kh, stride_kd,
    stride_vb, stride_vh, stride_vd,
    stride_sb, stride_sh, stride_sd, stride_sv,
    stride_zb, stride_zh, stride_zd,
    stride_gb, stride_gh,
    H, scale, eps,
    D: tl.constexpr, DV: tl.constexpr, GROUP: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_DV: tl.constexpr,
    FEATURE_MAP: tl.constexpr, NORMALIZE: tl.constexpr, HAS_DECAY: tl.constexpr,
):  # fmt: skip
    """The step for one key head and its GROUP query heads; no tensor cores, all in float32."""
    TILES: tl.constexpr = (DV + BLOCK_DV - 1) // BLOCK_DV
    tile = tl.program_id(0) % TILES
    head = (tl.program_id(0) // TILES).to(tl.int64)
    heads = H // GROUP
    b, h = head // heads, head % heads
    offs_d = tl.arange(0, BLOCK_D)
    offs_dv = tile * BLOCK_DV + tl.arange(0, BLOCK_DV)
    keep_d, keep_dv = offs_d < D, offs_dv < DV
    keep_s = keep_d[:, None] & keep_dv[None, :]

    b_k = tl.load(k + b * stride_kb + h * stride_kh + offs_d * stride_kd, keep_d, 0.0)  # [BLOCK_D]
    # [BLOCK_DV]
    b_v = tl.load(v + b * stride_vb + h * stride_vh + offs_dv * stride_vd, keep_dv, 0.0)
    # [BLOCK_D, BLOCK_DV]
    s = tl.load(
        kv + b * stride_sb + h * stride_sh
        + offs_d[:, None] * stride_sd + offs_dv[None, :] * stride_sv,
        keep_s, 0.0,
    )  # fmt: skip
    b_z = tl.load(z + b * stride_zb + h * stride_zh + offs_d * stride_zd, keep_d, 0.0)  # [BLOCK_D]
    fk = phi(b_k.to(tl.float32), keep_d, 0, FEATURE_MAP, False)
    if HAS_DECAY:
        g = tl.load(decay + b * stride_gb + h * stride_gh)
        left = tl.exp(tl.minimum(g, 0.0, propagate_nan=tl.PropagateNan.ALL))
        s *= left
        b_z *= left
    s += fk[:, None] * b_v.to(tl.float32)[None, :]
    b_z += fk
    tl.store(new_kv + head * D * DV + offs_d[:, None] * DV + offs_dv[None, :], s, keep_s)
    tl.store(new_z + head * D + offs_d, b_z, keep_d & (tile == 0))

    for i in tl.static_range(0, GROUP):
        hq = h * GROUP + i
        # [BLOCK_D]
        b_q = tl.load(q + b * stride_qb + hq * stride_qh + offs_d * stride_qd, keep_d, 0.0)
        fq = phi(b_q.to(tl.float32), keep_d, 0, FEATURE_MAP, False)
        b_o = tl.sum(fq[:, None] * s, axis=0)  # [BLOCK_DV]
        if NORMALIZE:
            b_o /= tl.sum(fq * b_z, axis=0) + eps
        else:
            b_o *= scale
        tl.store(o + (b * H + hq) * DV + offs_dv, b_o.to(o.dtype.element_ty), keep_dv)
    # [step-kernel:end]


def step(q, k, v, kv, z, decay, feature_map, normalize, scale, eps):
    """o [B, H, Dv] in q's dtype and the new state, kv [B, Hk, D, Dv] and z [B, Hk, D] float32."""
    B, H, D = q.shape
    Hk, DV = v.shape[1:]
    o = q.new_empty((B, H, DV))
    new_kv = torch.empty((B, Hk, D, DV), dtype=torch.float32, device=q.device)
    new_z = torch.empty((B, Hk, D), dtype=torch.float32, device=q.device)
    tile = configs.tile("step_kernel", D, DV, q.dtype, configs.hardware(q.device)[0])
    launch(
        step_kernel, B * Hk * configs.cdiv(DV, tile.values),
        (q, k, v, kv, z, decay, o, new_kv, new_z),
        (
            *q.stride(), *k.stride(), *v.stride(), *kv.stride(), *z.stride(),
            *((0, 0) if decay is None else decay.stride()),
        ),
        H=H, scale=scale, eps=eps, D=D, DV=DV, GROUP=H // Hk,
        BLOCK_D=tile.features, BLOCK_DV=tile.values,
        FEATURE_MAP=feature_map, NORMALIZE=normalize, HAS_DECAY=decay is not None,
        num_warps=tile.num_warps,
    )  # fmt: skip
    return o, new_kv, new_z
