"""A known number of bytes on their way: every load waits for the one before it."""

import torch
import triton
import triton.language as tl

NUM_WARPS = 4


# [in-flight:begin]
@triton.jit(do_not_specialize=["steps"])
def in_flight_kernel(
    zeros,  # [size] int32, all 0, which the compiler cannot know
    sums,  # [programs] int64, written
    steps,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Read `steps` blocks one after the other, with never more than one on its way."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    offs = program * BLOCK + tl.arange(0, BLOCK)
    for _ in range(steps):
        # the next addresses are known when this block has come
        offs += programs * BLOCK + tl.load(zeros + offs)
    tl.store(sums + program, tl.sum(offs.to(tl.int64)))
    # [in-flight:end]


def read_waiting(zeros, programs, steps, block):
    """[programs] int64: the sum of the offsets at which each program has arrived."""
    sums = torch.empty(programs, dtype=torch.int64, device=zeros.device)
    in_flight_kernel[(programs,)](
        zeros=zeros, sums=sums, steps=steps, BLOCK=block, num_warps=NUM_WARPS, num_stages=1
    )
    return sums
