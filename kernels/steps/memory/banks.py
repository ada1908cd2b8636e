"""Look numbers up in shared memory at a chosen stride, so that lanes meet in the same bank."""

import torch
import triton
import triton.language as tl

TABLE = 2048  # words of 4 bytes in shared memory
READS = 8192  # words that a program looks up at a time
NUM_WARPS = 8


# [banks:begin]
@triton.jit(do_not_specialize=["steps", "stride"])
def gather_kernel(
    zeros,  # [TABLE] int32, all 0, which the compiler cannot know
    sums,  # [programs] int32, written
    steps, stride,
    TABLE: tl.constexpr, READS: tl.constexpr,
):  # fmt: skip
    """`steps` times: neighbouring lanes read words of shared memory that lie `stride` apart."""
    words = tl.load(zeros + tl.arange(0, TABLE))
    index = (tl.arange(0, READS) * stride) % TABLE
    for _ in range(steps):
        index += tl.gather(words, index, 0)
    tl.store(sums + tl.program_id(0), tl.sum(index))
    # [banks:end]


def gather(zeros, programs, steps, stride):
    """[programs] int32: the sum of the indices, which the zeros did not change."""
    sums = torch.empty(programs, dtype=torch.int32, device=zeros.device)
    gather_kernel[(programs,)](
        zeros=zeros, sums=sums, steps=steps, stride=stride,
        TABLE=TABLE, READS=READS, num_warps=NUM_WARPS,
    )  # fmt: skip
    return sums
