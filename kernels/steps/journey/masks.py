"""Step 8, a witness: masks on every load and store, though every tile is full.

Right for contiguous inputs, any N, D and Dv powers of two from 16 on (64 for bfloat16).
"""

import triton
import triton.language as tl

from ..normalized import elu_plus_one
from . import passes

SETTINGS = passes.Settings()


# [state:begin]
@triton.jit
def state_kernel(
    k,  # [heads, N, D] contiguous
    v,  # [heads, N, DV] contiguous
    states,  # [parts, heads, D * DV + D] float32, written
    N, share, D: tl.constexpr, DV: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """S = Σ φ(k) vᵀ and z = Σ φ(k) over one part, `share` rows, of one head."""
    head = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    first = part * share
    last = tl.minimum(first + share, N)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, D)
    offs_dv = tl.arange(0, DV)
    k += head * N * D
    v += head * N * DV
    states += (part * tl.num_programs(0) + head) * (D * DV + D)

    b_s = tl.zeros([D, DV], dtype=tl.float32)
    b_z = tl.zeros([D], dtype=tl.float32)
    for n in range(first, last, BLOCK_N):
        rows = n + offs_n
        keep = rows[:, None] < last
        # [BLOCK_N, D]
        b_k = tl.load(k + rows[:, None] * D + offs_d[None, :], keep, 0.0)
        # [BLOCK_N, DV]
        b_v = tl.load(v + rows[:, None] * DV + offs_dv[None, :], keep, 0.0)
        fk = tl.where(keep, elu_plus_one(b_k), 0.0)  # [BLOCK_N, D] float32
        b_z += tl.sum(fk, axis=0)
        b_s = tl.dot(tl.trans(fk.to(b_v.dtype)), b_v, b_s, input_precision="ieee")
    tl.store(states + offs_d[:, None] * DV + offs_dv[None, :], b_s)
    tl.store(states + D * DV + offs_d, b_z)
    # [state:end]


# [output:begin]
@triton.jit
def output_kernel(
    q,  # [heads, N, D] contiguous
    states,  # [heads, D * DV + D] float32
    o,  # [heads, N, DV] contiguous, written
    N, eps, D: tl.constexpr, DV: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """o = φ(q) S / (φ(q)·z + eps) for one tile of rows of one head."""
    head = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, D)
    offs_dv = tl.arange(0, DV)
    q += head * N * D
    states += head * (D * DV + D)
    o += head * N * DV

    # [D, DV]
    b_s = tl.load(states + offs_d[:, None] * DV + offs_dv[None, :]).to(q.dtype.element_ty)
    b_z = tl.load(states + D * DV + offs_d)  # [D]
    keep = rows[:, None] < N
    # [BLOCK_N, D]
    b_q = tl.load(q + rows[:, None] * D + offs_d[None, :], keep, 0.0)
    fq = elu_plus_one(b_q)  # [BLOCK_N, D] float32
    # [BLOCK_N, DV]
    b_o = tl.dot(fq.to(q.dtype.element_ty), b_s, input_precision="ieee")
    b_o /= tl.sum(fq * b_z[None, :], axis=1)[:, None] + eps
    tl.store(o + rows[:, None] * DV + offs_dv[None, :], b_o.to(o.dtype.element_ty), keep)
    # [output:end]


def forward(q, k, v, out=None, *, settings=SETTINGS):
    """o [B, H, N, Dv] of q, k [B, H, N, D] and v [B, H, N, Dv]; written to `out` if given."""
    total = passes.state(state_kernel, k, v, settings.state)
    return passes.output(output_kernel, q, total, v, out, settings.output)
