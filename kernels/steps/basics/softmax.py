"""Softmax of each row: a row is loaded once, kept on the chip, and stored once."""

import torch
import triton
import triton.language as tl


# [softmax:begin]
@triton.jit
def softmax_kernel(
    x,  # [R, C], any strides
    out,  # [R, C], any strides, written
    stride_xr, stride_xc,
    stride_or, stride_oc,
    C, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """out[r] = softmax(x[r]) for one row; BLOCK_C is a power of two and at least C."""
    row = tl.program_id(0).to(tl.int64)
    cols = tl.arange(0, BLOCK_C)  # [BLOCK_C]
    keep = cols < C
    # [BLOCK_C]
    b_x = tl.load(x + row * stride_xr + cols * stride_xc, keep, float("-inf"))
    b_x = b_x.to(tl.float32)
    e = tl.exp(b_x - tl.max(b_x, axis=0))  # [BLOCK_C], 0 behind the end
    b_o = e / tl.sum(e, axis=0)  # [BLOCK_C]
    tl.store(out + row * stride_or + cols * stride_oc, b_o.to(out.dtype.element_ty), keep)
    # [softmax:end]


# [launch:begin]
def warps_for(columns):
    """A warp for each 512 columns: about 16 numbers a thread; at least 1 warp, at most 16."""
    return min(16, max(1, triton.next_power_of_2(columns) // 512))


def softmax(x, out=None, *, num_warps=None):
    """Softmax over the columns of x [R, C], any strides, 1 <= C <= 65536, in x's dtype."""
    R, C = x.shape
    out = torch.empty((R, C), dtype=x.dtype, device=x.device) if out is None else out
    if R:
        softmax_kernel[(R,)](
            x, out, *x.stride(), *out.stride(), C=C, BLOCK_C=triton.next_power_of_2(C),
            num_warps=num_warps or warps_for(C),
        )  # fmt: skip
    return out
    # [launch:end]


# [naive:begin]
def naive(x):
    """The same in five steps, each of which is a kernel of its own in PyTorch."""
    largest = x.amax(-1, keepdim=True)  # reads x
    shifted = x - largest  # reads x, writes
    e = shifted.exp()  # reads, writes
    total = e.sum(-1, keepdim=True)  # reads
    return e / total  # reads, writes
    # [naive:end]
