"""A wrong kernel that prints what it sees, for Triton's interpreter:

TRITON_INTERPRET=1 python -m kernels.steps.basics.watched
"""

import torch
import triton
import triton.language as tl


# [mean:begin]
@triton.jit
def mean_kernel(
    x,  # [R, C] contiguous
    out,  # [R] written
    C, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The mean of each row, but wrong."""
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK_C)  # [BLOCK_C]
    b_x = tl.load(x + row * C + cols, cols < C, 0.0)  # [BLOCK_C]
    mean = tl.sum(b_x, axis=0) / BLOCK_C
    if row == 1:
        print("columns", cols)
        print("loaded ", b_x)
        print("mean   ", mean)
    tl.store(out + row, mean)
    # [mean:end]


if __name__ == "__main__":
    x = torch.full((3, 5), 8.0)
    out = torch.empty(3)
    mean_kernel[(3,)](x=x, out=out, C=5, BLOCK_C=8)
    print("result ", out.tolist())
