"""Step 5: the rows of a head in parts, so that there are more programs than heads.

One program sums up one part, the sums are added in a fixed order, and the outputs of every tile are
a program of their own. φ and the denominator are still PyTorch's.
Right for contiguous inputs, N a multiple of the tile's rows, D and Dv powers of two from 16 on
(64 for bfloat16). Nothing is checked: other shapes read and write outside their tensors.
"""

import triton
import triton.language as tl

from . import passes
from .whole_tensors import denominator, phi

SETTINGS = passes.Settings()


# [state:begin]
@triton.jit
def state_kernel(
    k,  # [heads, N, D] contiguous, φ(k)
    v,  # [heads, N, DV] contiguous
    states,  # [parts, heads, D * DV] float32, written
    N, share, D: tl.constexpr, DV: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """S = Σ φ(k) vᵀ over one part, `share` rows, of one head."""
    head = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    first = part * share
    last = tl.minimum(first + share, N)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, D)
    offs_dv = tl.arange(0, DV)
    k += head * N * D
    v += head * N * DV
    states += (part * tl.num_programs(0) + head) * (D * DV)

    b_s = tl.zeros([D, DV], dtype=tl.float32)
    for n in range(first, last, BLOCK_N):
        rows = n + offs_n
        # [BLOCK_N, D]
        b_k = tl.load(k + rows[:, None] * D + offs_d[None, :]).to(tl.float32)
        # [BLOCK_N, DV]
        b_v = tl.load(v + rows[:, None] * DV + offs_dv[None, :]).to(tl.float32)
        b_s = tl.dot(tl.trans(b_k), b_v, b_s, input_precision="ieee")
    tl.store(states + offs_d[:, None] * DV + offs_dv[None, :], b_s)
    # [state:end]


# [output:begin]
@triton.jit
def output_kernel(
    q,  # [heads, N, D] contiguous, φ(q)
    states,  # [heads, D * DV] float32
    o,  # [heads, N, DV] contiguous, written
    N, eps, D: tl.constexpr, DV: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """o = φ(q) S for one tile of rows of one head; `eps` is not used."""
    head = tl.program_id(0).to(tl.int64)
    rows = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, D)
    offs_dv = tl.arange(0, DV)
    q += head * N * D
    states += head * (D * DV)
    o += head * N * DV

    # [D, DV]
    b_s = tl.load(states + offs_d[:, None] * DV + offs_dv[None, :])
    # [BLOCK_N, D]
    b_q = tl.load(q + rows[:, None] * D + offs_d[None, :]).to(tl.float32)
    b_o = tl.dot(b_q, b_s, input_precision="ieee")  # [BLOCK_N, DV]
    tl.store(o + rows[:, None] * DV + offs_dv[None, :], b_o.to(o.dtype.element_ty))
    # [output:end]


def forward(q, k, v, out=None, *, settings=SETTINGS):
    """o [B, H, N, Dv] of q, k [B, H, N, D] and v [B, H, N, Dv]; written to `out` if given."""
    fq, fk = phi(q), phi(k)
    total = passes.state(state_kernel, fk, v, settings.state, z=False)
    o = passes.output(output_kernel, fq, total, v, out, settings.output)
    return o.div_(denominator(fq, fk))
