"""The first kernel: the state of each head, S = Σ k vᵀ, by one program a head.

Right for contiguous k and v, N a multiple of BLOCK_N, D and Dv powers of two from 16 to 64
(64 for bfloat16: narrower tiles of it are miscompiled on Hopper by some versions of ptxas).
Nothing is checked: other shapes read and write outside their tensors.
There is no φ yet and no normalizer.
"""

import torch
import triton
import triton.language as tl

BLOCK_N = 64  # rows of one step of the loop
NUM_WARPS = 4  # 128 threads to a program
NUM_STAGES = 2  # blocks on their way from memory while one is being used


# [state-pass:begin]
@triton.jit
def state_kernel(
    k,  # [heads, N, D] contiguous
    v,  # [heads, N, DV] contiguous
    s,  # [heads, D, DV] float32, written
    N,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """S = Σ k vᵀ over all rows of one head."""
    head = tl.program_id(0)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, D)
    offs_dv = tl.arange(0, DV)
    k += head * N * D
    v += head * N * DV
    s += head * D * DV

    b_s = tl.zeros([D, DV], dtype=tl.float32)
    for n in range(0, N, BLOCK_N):
        rows = n + offs_n
        # [BLOCK_N, D]
        b_k = tl.load(k + rows[:, None] * D + offs_d[None, :])
        # [BLOCK_N, DV]
        b_v = tl.load(v + rows[:, None] * DV + offs_dv[None, :])
        b_s = tl.dot(tl.trans(b_k), b_v, b_s, input_precision="ieee")
    tl.store(s + offs_d[:, None] * DV + offs_dv[None, :], b_s)
    # [state-pass:end]


# [state-launch:begin]
def state(k, v):
    """S [B, H, D, Dv] float32 of k [B, H, N, D] and v [B, H, N, Dv]."""
    B, H, N, D = k.shape
    DV = v.shape[-1]
    s = torch.empty((B, H, D, DV), dtype=torch.float32, device=k.device)
    state_kernel[(B * H,)](
        k=k, v=v, s=s, N=N, D=D, DV=DV, BLOCK_N=BLOCK_N,
        num_warps=NUM_WARPS, num_stages=NUM_STAGES,
    )  # fmt: skip
    return s
    # [state-launch:end]
