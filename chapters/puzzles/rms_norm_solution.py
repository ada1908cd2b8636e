"""Solution of the puzzle `rms_norm`."""

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
    b_x = tl.load(x + row * stride_r + cols, keep, 0.0).to(tl.float32)  # [BLOCK_C]
    b_w = tl.load(w + cols, keep, 0.0)  # [BLOCK_C]
    mean = tl.sum(b_x * b_x, axis=0) / C
    tl.store(out + row * C + cols, b_x / tl.sqrt(mean + eps) * b_w, keep)
    # [puzzle:end]
