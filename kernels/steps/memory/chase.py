"""Pointer chase: each load says where the next one goes, so that none can begin early."""

import torch
import triton
import triton.language as tl

LINE = 32  # int32 elements of a cache line of 128 bytes


# [chase:begin]
@triton.jit(do_not_specialize=["steps"])
def chase_kernel(
    chain,  # [size] int32: from each place the next one
    end,  # [1] int32, written
    steps,
):  # fmt: skip
    """Where one arrives from place 0 after `steps` steps."""
    place = 0
    for _ in range(steps):
        place = tl.load(chain + place)
    tl.store(end, place)
    # [chase:end]


def cycle(lines, device):
    """[lines * LINE] int32: a walk through all lines in random order, and back to where it began.

    Only the first element of a line is a place; no line is met twice before all were met.
    """
    order = torch.randperm(lines, device=device, dtype=torch.int64) * LINE
    chain = torch.zeros(lines * LINE, dtype=torch.int32, device=device)
    chain[order] = order.roll(-1).to(torch.int32)
    return chain


def chase(chain, steps):
    """[1] int32: where a walk of `steps` steps from place 0 ends."""
    end = torch.empty(1, dtype=torch.int32, device=chain.device)
    chase_kernel[(1,)](chain=chain, end=end, steps=steps, num_warps=1, num_stages=1)
    return end
