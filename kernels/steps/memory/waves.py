"""Programs that only compute, each enough to fill a multiprocessor: they come in waves."""

import torch
import triton
import triton.language as tl

BLOCK = 4096  # numbers of a program
NUM_WARPS = 16


# [waves:begin]
@triton.jit(do_not_specialize=["turns"])
def work_kernel(
    sums,  # [programs] float32, written
    turns,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK numbers, each multiplied and added to `turns` times."""
    x = tl.arange(0, BLOCK).to(tl.float32)
    for _ in range(turns):
        x = x * 0.5 + 1.0
    tl.store(sums + tl.program_id(0), tl.sum(x))
    # [waves:end]


def work(programs, turns, device):
    """[programs]: what each program computed, the same for all."""
    sums = torch.empty(programs, dtype=torch.float32, device=device)
    work_kernel[(programs,)](sums=sums, turns=turns, BLOCK=BLOCK, num_warps=NUM_WARPS)
    return sums
