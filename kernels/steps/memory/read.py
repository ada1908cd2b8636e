"""Read the same memory over and over: how fast that goes depends on where it is found again."""

import torch
import triton
import triton.language as tl

BLOCK = 4096  # elements that a program reads at a time
NUM_WARPS = 16
PROGRAMS_PER_MULTIPROCESSOR = 2


# [read:begin]
@triton.jit(do_not_specialize=["blocks", "turns"])
def read_kernel(
    x,  # [blocks * BLOCK] float32
    sums,  # [programs] float32, written
    blocks, turns,
    CACHE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Each program reads `turns` blocks of x, and begins again where x ends."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    offs = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for turn in range(turns):
        block = (program + turn * programs) % blocks
        # "" looks in L1 first, ".cg" goes past it to L2
        total += tl.load(x + block * BLOCK + offs, cache_modifier=CACHE)
    tl.store(sums + program, tl.sum(total))
    # [read:end]


def read(x, programs, turns, cache=""):
    """[programs]: the sum of what each program read of x [size], `turns` blocks each."""
    sums = torch.empty(programs, dtype=torch.float32, device=x.device)
    read_kernel[(programs,)](
        x=x, sums=sums, blocks=x.numel() // BLOCK, turns=turns,
        CACHE=cache, BLOCK=BLOCK, num_warps=NUM_WARPS,
    )  # fmt: skip
    return sums
