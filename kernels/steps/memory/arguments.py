"""A kernel of one thread with as many arguments as asked for, and nothing else to do."""

import torch
import triton
import triton.language as tl


# [arguments:begin]
@triton.jit
def sum_kernel(
    total,  # [1] int64, written
    values,  # a tuple of int64: each is an argument of its own
):  # fmt: skip
    """The sum of the arguments, so that the compiler drops none of them."""
    x = tl.zeros([], dtype=tl.int64)
    for i in tl.static_range(len(values)):
        x += values[i]
    tl.store(total, x)
    # [arguments:end]


def total(count: int, out: torch.Tensor) -> torch.Tensor:
    """out [1] int64 becomes the sum of `count` arguments of 8 bytes each, which is returned."""
    first = 2**40 + 1  # no int32, and no multiple of 16
    values = tuple(first + 2 * i for i in range(count))
    sum_kernel[(1,)](total=out, values=values, num_warps=1)
    return out
