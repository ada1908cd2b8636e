"""Puzzle: two states under two feature maps, from one reading of k and v."""

# What is imported and computed here is for the lines that you write.
# ruff: noqa: F401, F841
import triton
import triton.language as tl

from kernels.steps.normalized import elu_plus_one


# [puzzle:begin]
@triton.jit
def kernel(
    k,  # [heads, N, D] contiguous
    v,  # [heads, N, D] contiguous
    states,  # [parts, heads, 2, D, D] float32, to be written: Σ φ(k) vᵀ for two maps φ
    N, share, D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The states under φ = elu + 1, then φ = relu, of one part of one head."""
    head = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    first = part * share
    last = tl.minimum(first + share, N)
    offs_n = tl.arange(0, BLOCK_N)
    offs_d = tl.arange(0, D)
    k += head * N * D
    v += head * N * D
    states += (part * tl.num_programs(0) + head) * 2 * D * D
    at_s = offs_d[:, None] * D + offs_d[None, :]  # [D, D]
    # Your lines: `share` is a multiple of BLOCK_N, N need not be one.
    # Products: tl.dot(tl.trans(a), b, acc, input_precision="ieee"), a and b in v's dtype.
    # [puzzle:end]
