"""Tile shapes and the number of parts, in one place.

A tile shape is chosen by kernel, head sizes and dtype; the number of parts by how many programs
the GPU can hold. Nothing is tuned while a program runs.

The shapes were chosen by timing (8, 8, 65536, 64) and (4, 16, 16384, 128) in bfloat16 on an H100
and by compiling every one ahead of time: none asks for more shared memory than a block of sm_86
has (99 KiB).
"""

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl

KERNELS = (
    "state_kernel",
    "output_kernel",
    "backward_query_kernel",
    "backward_key_kernel",
    "causal_output_kernel",
    "causal_backward_query_kernel",
    "causal_backward_key_kernel",
)


RESIDENT = 4  # programs on one multiprocessor at a time


class Tile(NamedTuple):
    """The shape of one program: how much it holds, and how it is compiled."""

    rows: int  # tokens of one step of the loop
    features: int  # D, rounded up to a power of two
    values: int  # columns of v that one program sees
    num_warps: int
    num_stages: int


@functools.cache
def tile(kernel: str, D: int, DV: int, dtype: torch.dtype) -> Tile:
    """The tile of `kernel` (one of KERNELS) for head sizes D and DV, both 1 to 256."""
    features = max(16, triton.next_power_of_2(D))
    # the state of a program is features × values in float32 registers: 64 KiB at the most
    values = max(16, min(triton.next_power_of_2(DV), 128, 16384 // features))
    wide = features * values > 4096
    if dtype == torch.bfloat16:
        rows = 64 if features <= 128 else 32
        stages = 3 if not wide else 2
    else:  # operands of four bytes
        rows = 32 if features <= 64 else 16
        stages = 2 if not wide else 1
    return Tile(rows, features, values, num_warps=8 if wide else 4, num_stages=stages)


def operand(dtype: torch.dtype) -> dict:
    """What the operands of a matrix product are converted to, by the dtype of the inputs.

    float32 is multiplied as float32 (`ieee`). A float16 operand could overflow: a state sums over
    all tokens and passes 65504. In float32 registers multiplied as tf32 it keeps the 10 bits of
    mantissa that float16 has, and the range of float32.
    """
    return {
        torch.bfloat16: {"OPERAND": tl.bfloat16, "PRECISION": "tf32"},
        torch.float16: {"OPERAND": tl.float32, "PRECISION": "tf32"},
        torch.float32: {"OPERAND": tl.float32, "PRECISION": "ieee"},
    }[dtype]


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """How many programs' worth of hardware there is; a small number for the interpreter."""
    if device.type != "cuda":
        return 8
    return torch.cuda.get_device_properties(device).multi_processor_count


def plan(kernel, x, DV, heads, cu_seqlens):
    """The tile, and into how many parts the rows of each head are cut.

    x [B, H, N, D] gives rows, D and dtype; `heads` counts the heads of all sequences. As many
    parts as it takes to give every multiprocessor `RESIDENT` programs, but none shorter than
    four blocks of rows.
    """
    N, D = x.shape[2:]
    if cu_seqlens is not None:
        N = triton.cdiv(N, cu_seqlens.numel() - 1)
    shape = tile(kernel, D, DV, x.dtype)
    programs = heads * triton.cdiv(DV, shape.values)
    wanted = multiprocessors(x.device) * RESIDENT // programs
    return shape, max(1, min(wanted, triton.cdiv(N, 4 * shape.rows)))


