"""Puzzle: the output pass of one part, with the state loaded once."""

# What is imported and computed here is for the lines that you write.
# ruff: noqa: F401, F841
import triton
import triton.language as tl

from kernels.steps.normalized import elu_plus_one


# [puzzle:begin]
@triton.jit
def kernel(
    q,  # [heads, N, D] contiguous
    states,  # [heads, D * D + D] float32: S row by row, then z
    o,  # [heads, N, D] contiguous, to be written
    N, share, eps, D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """o = φ(q) S / (φ(q)·z + eps) for one part, `share` rows, of one head."""
    head = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * share
    last = tl.minimum(first + share, N)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, D)
    q += head * N * D
    states += head * (D * D + D)
    o += head * N * D
    # Your lines: `share` is a multiple of BLOCK_N, N need not be one.
    # Products: tl.dot(a.to(dtype), b.to(dtype), input_precision="ieee"), dtype that of q.
    # [puzzle:end]
