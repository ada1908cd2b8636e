"""Two races: programs that change what others read, and programs that change one number."""

import torch
import triton
import triton.language as tl

BLOCK = 256


# [difference:begin]
@triton.jit
def difference_kernel(
    x,  # [n] contiguous
    out,  # [n] contiguous, written; x itself is a fault
    n, BLOCK: tl.constexpr,
):  # fmt: skip
    """out[i] = x[i] - x[i - 1], with 0 before the first element."""
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    keep = offs < n
    here = tl.load(x + offs, keep)  # [BLOCK]
    before = tl.load(x + offs - 1, keep & (offs > 0), 0.0)  # [BLOCK]
    tl.store(out + offs, here - before, keep)
    # [difference:end]


def difference(x, out):
    """Differences of neighbours, x [n] contiguous, written to `out`."""
    n = x.numel()
    difference_kernel[(triton.cdiv(n, BLOCK),)](x=x, out=out, n=n, BLOCK=BLOCK)
    return out


# [count:begin]
@triton.jit
def count_kernel(
    counter,  # [1] int32, changed
    ATOMIC: tl.constexpr,
):
    """Each program adds 1 to the counter."""
    if ATOMIC:
        tl.atomic_add(counter, 1)
    else:
        tl.store(counter, tl.load(counter) + 1)
    # [count:end]


def count(programs, atomic, device):
    """What a counter shows to which each of `programs` programs added 1."""
    counter = torch.zeros(1, dtype=torch.int32, device=device)
    count_kernel[(programs,)](counter=counter, ATOMIC=atomic)
    return counter
