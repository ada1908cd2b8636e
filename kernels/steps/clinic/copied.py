"""y = x, by a kernel whose bytes can be counted by hand: each number is read and written once."""

import triton
import triton.language as tl

BLOCK = 4096


# [copied:begin]
@triton.jit
def copy_kernel(
    x,  # [n] contiguous
    y,  # [n] contiguous, written
    n,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at, at < n), at < n)
    # [copied:end]


def copy(x, y):
    """Write contiguous x into contiguous y of its size and dtype; moves 2 x.nbytes bytes."""
    n = x.numel()
    copy_kernel[(triton.cdiv(n, BLOCK),)](x=x, y=y, n=n, BLOCK=BLOCK, num_warps=8)
