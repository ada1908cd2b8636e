"""Step 9: K is transposed by its addresses instead of in registers.

Right for contiguous inputs, N a multiple of the tile's rows, D and Dv powers of two from 16 on
(64 for bfloat16). Nothing is checked: other shapes read and write outside their tensors.
"""

import triton
import triton.language as tl

from ..normalized import elu_plus_one
from . import passes
from .fused import output_kernel

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
        # [D, BLOCK_N]: transposed by its addresses
        b_k = tl.load(k + offs_d[:, None] + rows[None, :] * D)
        # [BLOCK_N, DV]
        b_v = tl.load(v + rows[:, None] * DV + offs_dv[None, :])
        fk = elu_plus_one(b_k)  # [D, BLOCK_N] float32
        b_z += tl.sum(fk, axis=1)
        b_s = tl.dot(fk.to(b_v.dtype), b_v, b_s, input_precision="ieee")
    tl.store(states + offs_d[:, None] * DV + offs_dv[None, :], b_s)
    tl.store(states + D * DV + offs_d, b_z)
    # [state:end]


def forward(q, k, v, out=None, *, settings=SETTINGS):
    """o [B, H, N, Dv] of q, k [B, H, N, D] and v [B, H, N, Dv]; written to `out` if given."""
    total = passes.state(state_kernel, k, v, settings.state)
    return passes.output(output_kernel, q, total, v, out, settings.output)
