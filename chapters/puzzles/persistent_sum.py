"""Puzzle: a fixed number of programs share all blocks, however many there are."""

# What is computed here is for the lines that you write.
# ruff: noqa: F841
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
    # Your lines: of all blocks of x, add to total those numbered
    # program, program + programs, program + 2 * programs, and so on.
    # The last block may be incomplete.
    tl.store(sums + program, tl.sum(total))
    # [puzzle:end]
