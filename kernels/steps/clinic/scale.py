"""y = a x, right and fast, and twice as fast because half of it is missing."""

import torch
import triton
import triton.language as tl

BLOCK = 1024


# [scale:begin]
@triton.jit
def scale_kernel(
    x,  # [n] contiguous
    y,  # [n] contiguous, written
    a,
    n,
    BLOCK: tl.constexpr,
):
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    b_x = tl.load(x + offs, offs < n, 0.0)  # [BLOCK]
    tl.store(y + offs, (a * b_x.to(tl.float32)).to(y.dtype.element_ty), offs < n)


def scaled(x, a):
    """a x for contiguous x of any dtype and shape."""
    y = torch.empty_like(x)
    n = x.numel()
    scale_kernel[(triton.cdiv(n, BLOCK),)](x=x, y=y, a=a, n=n, BLOCK=BLOCK)
    return y


def scaled_faster(x, a):
    """The same, and much faster. WRONG on purpose."""
    y = torch.empty_like(x)
    n = x.numel()
    programs = triton.cdiv(x.nbytes, 4 * BLOCK)
    scale_kernel[(programs,)](x=x, y=y, a=a, n=n, BLOCK=BLOCK)
    return y
    # [scale:end]
