"""Step 13: a program of the output pass takes a whole part, and loads S once.

Right for contiguous inputs, N a multiple of the tile's rows, D and Dv powers of two from 16 on
(64 for bfloat16). Nothing is checked: other shapes read and write outside their tensors.
"""

import triton
import triton.language as tl

from ...feature_maps import phi_operand
from . import passes
from .columns import state_kernel

SETTINGS = passes.Settings()


# [output:begin]
@triton.jit
def output_kernel(
    q,  # [heads, N, D] contiguous
    states,  # [heads, D * DV + D] float32
    o,  # [heads, N, DV] contiguous, written
    N, share, eps, D: tl.constexpr, DV: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """o = φ(q) S / (φ(q)·z + eps) for one part, `share` rows, of one head."""
    head = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * share
    last = tl.minimum(first + share, N)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, D)
    offs_dv = tl.arange(0, DV)
    q += head * N * D
    states += head * (D * DV + D)
    o += head * N * DV

    # [D, DV]
    b_s = tl.load(states + offs_d[:, None] * DV + offs_dv[None, :]).to(q.dtype.element_ty)
    # [D, 1]
    b_z = tl.load(states + D * DV + offs_d)[:, None].to(q.dtype.element_ty)
    for n in range(first, last, BLOCK_N):
        rows = n + offs_n
        # [BLOCK_N, D]
        b_q = tl.load(q + rows[:, None] * D + offs_d[None, :])
        fq = phi_operand(b_q, True, 1, "elu", True, q.dtype.element_ty)  # [BLOCK_N, D]
        # [BLOCK_N, DV]
        b_o = tl.dot(fq, b_s, input_precision="ieee")
        b_o /= tl.dot(fq, b_z, input_precision="ieee") + eps
        tl.store(o + rows[:, None] * DV + offs_dv[None, :], b_o.to(o.dtype.element_ty))
    # [output:end]


def forward(q, k, v, out=None, *, settings=SETTINGS):
    """o [B, H, N, Dv] of q, k [B, H, N, D] and v [B, H, N, Dv]; written to `out` if given."""
    total = passes.state(state_kernel, k, v, settings.state)
    return passes.looped_output(output_kernel, q, total, v, out, settings.output)
