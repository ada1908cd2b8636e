"""Solution of the puzzle `persistent_sum`."""

import triton
import triton.language as tl


# [puzzle:begin]
@triton.jit
def kernel(
    x,  # [size] contiguous
    sums,  # [programs] float32, to be written
    size, BLOCK: tl.constexpr,
):  # fmt: skip
    program, programs = tl.program_id(0), tl.num_programs(0)
    offs = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(program * BLOCK, size, programs * BLOCK):
        at = start + offs
        total += tl.load(x + at, mask=at < size, other=0.0)
    tl.store(sums + program, tl.sum(total))
    # [puzzle:end]
