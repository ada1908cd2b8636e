"""Puzzle: what comes after each segment, as the backward pass needs it."""

# What is imported and computed here is for the lines that you write.
# ruff: noqa: F841
import triton
import triton.language as tl


# [puzzle:begin]
@triton.jit
def kernel(
    sums,  # [segments, SIZE] float32 contiguous: the sum of each segment
    after,  # [segments, SIZE] float32 contiguous, written: the sum of all later segments
    segments, SIZE, BLOCK: tl.constexpr,
):  # fmt: skip
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    keep = offs < SIZE
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for i in range(0, segments):
        segment = segments - 1 - i  # from the last to the first
        # Your lines: store what came so far, then add the sum of this segment.
    # [puzzle:end]
