"""Solution of the puzzle `two_maps`."""

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
    b_elu = tl.zeros([D, D], dtype=tl.float32)
    b_relu = tl.zeros([D, D], dtype=tl.float32)
    for n in range(first, last, BLOCK_N):
        rows = n + offs_n
        keep = rows[:, None] < last
        at = rows[:, None] * D + offs_d[None, :]
        # [BLOCK_N, D]
        b_k = tl.load(k + at, keep, 0.0)
        # [BLOCK_N, D]
        b_v = tl.load(v + at, keep, 0.0)
        elu = elu_plus_one(b_k).to(b_v.dtype)  # a row of v that is not there is 0
        relu = tl.maximum(b_k, 0.0).to(b_v.dtype)
        b_elu = tl.dot(tl.trans(elu), b_v, b_elu, input_precision="ieee")
        b_relu = tl.dot(tl.trans(relu), b_v, b_relu, input_precision="ieee")
    tl.store(states + at_s, b_elu)
    tl.store(states + D * D + at_s, b_relu)
    # [puzzle:end]
