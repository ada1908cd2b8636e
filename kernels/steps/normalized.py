"""φ = elu + 1 and the normalizer, inside the two kernels: o = φ(q) S / (φ(q)·z + eps).

Right for contiguous q, k and v, N a multiple of BLOCK_N, D and Dv powers of two from 16 to 64
(64 for bfloat16).
Nothing is checked: other shapes read and write outside their tensors.

From here on a state is stored flat, [D · Dv + D] float32: S row by row, then z.
"""

import torch
import triton
import triton.language as tl

from .state_pass import BLOCK_N, NUM_STAGES, NUM_WARPS

EPS = 1e-6  # added to the denominator, as in the operator


# [phi:begin]
@triton.jit
def elu_plus_one(x):
    """φ(x) = elu(x) + 1 in float32: x + 1 for x > 0, else exp(x). NaN stays NaN."""
    x = x.to(tl.float32)
    return tl.where(x > 0, x + 1, tl.exp(x))
    # [phi:end]


# [state-pass:begin]
@triton.jit
def state_kernel(
    k,  # [heads, N, D] contiguous
    v,  # [heads, N, DV] contiguous
    states,  # [heads, D * DV + D] float32, written
    N,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """S = Σ φ(k) vᵀ and z = Σ φ(k) over all rows of one head."""
    head = tl.program_id(0)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, D)
    offs_dv = tl.arange(0, DV)
    k += head * N * D
    v += head * N * DV
    states += head * (D * DV + D)

    b_s = tl.zeros([D, DV], dtype=tl.float32)
    b_z = tl.zeros([D], dtype=tl.float32)
    for n in range(0, N, BLOCK_N):
        rows = n + offs_n
        # [BLOCK_N, D]
        b_k = tl.load(k + rows[:, None] * D + offs_d[None, :])
        # [BLOCK_N, DV]
        b_v = tl.load(v + rows[:, None] * DV + offs_dv[None, :])
        fk = elu_plus_one(b_k)  # [BLOCK_N, D] float32
        b_z += tl.sum(fk, axis=0)
        b_s = tl.dot(tl.trans(fk.to(b_v.dtype)), b_v, b_s, input_precision="ieee")
    tl.store(states + offs_d[:, None] * DV + offs_dv[None, :], b_s)
    tl.store(states + D * DV + offs_d, b_z)
    # [state-pass:end]


# [output-pass:begin]
@triton.jit
def output_kernel(
    q,  # [heads, N, D] contiguous
    states,  # [heads, D * DV + D] float32
    o,  # [heads, N, DV] contiguous, written
    N, eps,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """o = φ(q) S / (φ(q)·z + eps) for one block of rows of one head."""
    head = tl.program_id(0)
    rows = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, D)
    offs_dv = tl.arange(0, DV)
    q += head * N * D
    states += head * (D * DV + D)
    o += head * N * DV

    # [BLOCK_N, D]
    b_q = tl.load(q + rows[:, None] * D + offs_d[None, :])
    # [D, DV]
    b_s = tl.load(states + offs_d[:, None] * DV + offs_dv[None, :])
    # [D]
    b_z = tl.load(states + D * DV + offs_d)
    fq = elu_plus_one(b_q)  # [BLOCK_N, D] float32
    b_o = tl.dot(fq.to(b_q.dtype), b_s.to(b_q.dtype), input_precision="ieee")
    b_o /= tl.sum(fq * b_z[None, :], axis=1)[:, None] + eps
    tl.store(o + rows[:, None] * DV + offs_dv[None, :], b_o.to(o.dtype.element_ty))
    # [output-pass:end]


def forward(q, k, v, out=None):
    """o [B, H, N, Dv] in q's dtype, float32 or bfloat16; written to `out` if given.

    q, k [B, H, N, D] and v [B, H, N, Dv].
    """
    B, H, N, D = q.shape
    DV = v.shape[-1]
    states = torch.empty((B, H, D * DV + D), dtype=torch.float32, device=q.device)
    o = torch.empty_like(v) if out is None else out
    shape = {"N": N, "D": D, "DV": DV, "BLOCK_N": BLOCK_N}
    compiled = {"num_warps": NUM_WARPS, "num_stages": NUM_STAGES}
    state_kernel[(B * H,)](k=k, v=v, states=states, **shape, **compiled)
    output_kernel[(B * H, triton.cdiv(N, BLOCK_N))](
        q=q, states=states, o=o, eps=EPS, **shape, **compiled
    )
    return o
