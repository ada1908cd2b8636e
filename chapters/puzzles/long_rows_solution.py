"""Solution of the puzzle `long_rows`."""

import triton
import triton.language as tl


# [puzzle:begin]
@triton.jit
def kernel(
    x,  # [R, C] float32 contiguous
    out,  # [R] float32, to be written
    C, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """out[r] = log(sum(exp(x[r])))"""
    row = tl.program_id(0).to(tl.int64)
    offs = tl.arange(0, BLOCK_C)
    largest = tl.full([], float("-inf"), tl.float32)  # of all columns so far
    total = tl.zeros([], tl.float32)  # of exp(x - largest) of all columns so far
    for c in range(0, C, BLOCK_C):
        cols = c + offs
        b_x = tl.load(x + row * C + cols, cols < C, float("-inf"))  # [BLOCK_C]
        new = tl.maximum(largest, tl.max(b_x, axis=0))
        total = total * tl.exp(largest - new) + tl.sum(tl.exp(b_x - new), axis=0)
        largest = new
    tl.store(out + row, largest + tl.log(total))
    # [puzzle:end]
