"""A long sum of products, kept in float16 or in float32."""

import torch
import triton
import triton.language as tl

SIDE = 16
BLOCK_K = 16


# [product:begin]
@triton.jit
def product_kernel(
    a,  # [SIDE, K] contiguous, K a multiple of BLOCK_K
    b,  # [K, SIDE] contiguous
    c,  # [SIDE, SIDE] contiguous, written
    K, SIDE: tl.constexpr, BLOCK_K: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """c = a @ b with the running sum in the dtype ACC."""
    side = tl.arange(0, SIDE)
    offs_k = tl.arange(0, BLOCK_K)
    acc = tl.zeros([SIDE, SIDE], dtype=ACC)
    for k in range(0, K, BLOCK_K):
        b_a = tl.load(a + side[:, None] * K + k + offs_k[None, :])  # [SIDE, BLOCK_K]
        b_b = tl.load(b + (k + offs_k[:, None]) * SIDE + side[None, :])  # [BLOCK_K, SIDE]
        acc += tl.dot(b_a, b_b).to(ACC)  # [SIDE, SIDE]
    tl.store(c + side[:, None] * SIDE + side[None, :], acc.to(c.dtype.element_ty))
    # [product:end]


def product(a, b, acc):
    """a [16, K] @ b [K, 16] in float32, both float16, K a multiple of 16; summed in `acc`."""
    c = torch.empty((SIDE, SIDE), dtype=torch.float32, device=a.device)
    product_kernel[(1,)](
        a=a, b=b, c=c, K=a.shape[1], SIDE=SIDE, BLOCK_K=BLOCK_K, ACC=acc, num_warps=1
    )
    return c
