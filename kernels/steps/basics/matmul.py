"""A matrix product in tiles: each program computes one tile of the result."""

import torch
import triton
import triton.language as tl

TILE = (64, 64, 32)  # BLOCK_M, BLOCK_N, BLOCK_K
GROUP = 8


# [order:begin]
@triton.jit
def tile_of(program, tiles_m, tiles_n, GROUP: tl.constexpr):
    """The tile of a program: columns of GROUP tiles, one column after the other."""
    band = program // (GROUP * tiles_n)  # GROUP rows of tiles make a band
    within = program % (GROUP * tiles_n)
    height = tl.minimum(tiles_m - band * GROUP, GROUP)  # the last band may be lower
    return band * GROUP + within % height, within // height
    # [order:end]


# [matmul:begin]
@triton.jit
def matmul_kernel(
    a,  # [M, K], any strides
    b,  # [K, N], any strides
    c,  # [M, N], any strides, written
    M, N, K,
    stride_am, stride_ak,
    stride_bk, stride_bn,
    stride_cm, stride_cn,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """One tile of c = a @ b, summed in float32."""
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    tile_m, tile_n = tile_of(tl.program_id(0), tiles_m, tiles_n, GROUP)
    rows = (tile_m * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    cols = (tile_n * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    offs_k = tl.arange(0, BLOCK_K).to(tl.int64)
    # Rows behind the end are wrapped to rows that exist; the store drops what they give.
    a += (rows % M)[:, None] * stride_am + offs_k[None, :] * stride_ak
    b += offs_k[:, None] * stride_bk + (cols % N)[None, :] * stride_bn

    acc = tl.zeros([BLOCK_M, BLOCK_N], dtype=tl.float32)
    for k in range(0, K, BLOCK_K):
        b_a = tl.load(a, offs_k[None, :] < K - k, 0.0)  # [BLOCK_M, BLOCK_K]
        b_b = tl.load(b, offs_k[:, None] < K - k, 0.0)  # [BLOCK_K, BLOCK_N]
        acc = tl.dot(b_a, b_b, acc, input_precision="ieee")  # [BLOCK_M, BLOCK_N]
        a += BLOCK_K * stride_ak
        b += BLOCK_K * stride_bk
    keep = (rows[:, None] < M) & (cols[None, :] < N)
    c += rows[:, None] * stride_cm + cols[None, :] * stride_cn
    tl.store(c, acc.to(c.dtype.element_ty), keep)
    # [matmul:end]


# [launch:begin]
def matmul(a, b, out=None, *, tile=TILE, group=GROUP, num_warps=4, num_stages=3):
    """a @ b for a [M, K] and b [K, N] of one dtype, any strides; M, N, K from 0."""
    (M, K), N = a.shape, b.shape[1]
    out = torch.empty((M, N), dtype=a.dtype, device=a.device) if out is None else out
    BLOCK_M, BLOCK_N, BLOCK_K = tile
    tiles = triton.cdiv(M, BLOCK_M) * triton.cdiv(N, BLOCK_N)
    if tiles:
        matmul_kernel[(tiles,)](
            a, b, out, M, N, K, *a.stride(), *b.stride(), *out.stride(),
            BLOCK_M=BLOCK_M, BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K, GROUP=group,
            num_warps=num_warps, num_stages=num_stages,
        )  # fmt: skip
    return out
    # [launch:end]
