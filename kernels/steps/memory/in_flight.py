"""A known number of bytes on their way: every load waits for the one before it."""

import torch
import triton
import triton.language as tl

# Loads of a lane. They all begin before the first one is needed; of more than so many at a time
# the assembler makes groups that wait for each other.
LOADS = 8


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


def warps(block):
    """The warps of a program that reads blocks of `block` elements."""
    return block // (32 * LOADS)


def read_waiting(zeros, programs, steps, block):
    """[programs] int64: the sum of the offsets at which each program has arrived.

    `block` is a multiple of 256: a program has as many warps as it takes for LOADS to a lane.
    """
    sums = torch.empty(programs, dtype=torch.int64, device=zeros.device)
    in_flight_kernel[(programs,)](
        zeros=zeros, sums=sums, steps=steps, BLOCK=block,
        num_warps=warps(block), num_stages=1,
    )  # fmt: skip
    return sums
