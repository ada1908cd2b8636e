"""Pointer chase: each load says where the next one goes, so that none can begin early."""

import torch
import triton
import triton.language as tl

LINE = 32  # int32 elements of a cache line of 128 bytes
CHUNK = 1024  # lines of a chunk, 128 KiB


# [chase:begin]
@triton.jit(do_not_specialize=["start", "steps"])
def chase_kernel(
    chain,  # [size] int32: from each place the next one
    end,  # [1] int32, written
    start, steps,
):  # fmt: skip
    """Where one arrives from place `start` after `steps` steps."""
    place = start
    for _ in range(steps):
        place = tl.load(chain + place)
    tl.store(end, place)
    # [chase:end]


def cycle(lines, device, chunk=None):
    """[lines * LINE] int32: a walk through all lines in random order, and back to where it began.

    Only the first element of a line is a place; no line is met twice before all were met. With
    `chunk` the walk visits all lines of a chunk before it goes to another one; both the lines of
    a chunk and the chunks are in random order, and `lines` is a multiple of `chunk`.
    """
    chunk = min(chunk or lines, lines)
    # [chunks, chunk]
    order = torch.rand(lines // chunk, chunk, device=device).argsort(1)
    order += torch.randperm(lines // chunk, device=device)[:, None] * chunk
    order = order.flatten() * LINE
    chain = torch.zeros(lines * LINE, dtype=torch.int32, device=device)
    chain[order] = order.roll(-1).to(torch.int32)
    return chain


def chase(chain, steps, start=0):
    """[1] int32: where a walk of `steps` steps from the place `start` ends."""
    end = torch.empty(1, dtype=torch.int32, device=chain.device)
    chase_kernel[(1,)](chain=chain, end=end, start=start, steps=steps, num_warps=1, num_stages=1)
    return end
