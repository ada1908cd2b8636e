"""Puzzle: divide each row by its root mean square, for rows of float16 that lie anywhere."""

# What is imported and computed here is for the lines that you write.
# ruff: noqa: F401, F841
import triton
import triton.language as tl


# [puzzle:begin]
@triton.jit
def kernel(
    x,  # [R, C] float16, the columns contiguous, the rows stride_r apart
    w,  # [C] float32
    out,  # [R, C] float32 contiguous, to be written
    stride_r, C, eps, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """out = x / sqrt(mean(x²) + eps) * w for one row."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK_C)  # BLOCK_C is a power of two, C need not be one
    keep = cols < C
    # Your lines: load x and w, compute in float32, store.
    # [puzzle:end]
