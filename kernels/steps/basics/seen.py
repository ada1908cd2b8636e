"""Kernels that write down what they do: who owns which element, and which addresses a block has."""

import torch
import triton
import triton.language as tl

from .matmul import tile_of

NOBODY = -1


@triton.jit
def owner_kernel(
    owner,  # [room] int32, written where the mask allows it
    n,
    BLOCK: tl.constexpr,
):
    """The same offsets and mask as `add_kernel`, and the program's number in place of a sum."""
    program = tl.program_id(0)
    offs = program * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    tl.store(owner + offs, program, mask=offs < n)


def owners(n, block, room, device):
    """[room] int32: the program that writes element i of n, or NOBODY."""
    owner = torch.full((room,), NOBODY, dtype=torch.int32, device=device)
    owner_kernel[(triton.cdiv(n, block),)](owner=owner, n=n, BLOCK=block)
    return owner


# [addresses:begin]
@triton.jit
def address_kernel(
    out,  # [BLOCK_R, BLOCK_C] int32 contiguous, written
    stride_r,
    stride_c,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """The offsets that a block of BLOCK_R rows and BLOCK_C columns would load from."""
    offs_r = tl.arange(0, BLOCK_R)
    offs_c = tl.arange(0, BLOCK_C)
    # [BLOCK_R, 1] + [1, BLOCK_C] -> [BLOCK_R, BLOCK_C]
    offs = offs_r[:, None] * stride_r + offs_c[None, :] * stride_c
    tl.store(out + offs_r[:, None] * BLOCK_C + offs_c[None, :], offs)
    # [addresses:end]


def addresses(x, rows, columns):
    """[rows, columns] int32: offsets of the first rows and columns of x; powers of two."""
    out = torch.empty((rows, columns), dtype=torch.int32, device=x.device)
    address_kernel[(1,)](out=out, stride_r=x.stride(0), stride_c=x.stride(1),
                         BLOCK_R=rows, BLOCK_C=columns)  # fmt: skip
    return out


@triton.jit
def order_kernel(
    order,  # [tiles_m, tiles_n] int32 contiguous, written
    tiles_m,
    tiles_n,
    GROUP: tl.constexpr,
):
    """Each program writes its number into its tile."""
    program = tl.program_id(0)
    tile_m, tile_n = tile_of(program, tiles_m, tiles_n, GROUP)
    tl.store(order + tile_m * tiles_n + tile_n, program)


def order(tiles_m, tiles_n, group, device):
    """[tiles_m, tiles_n] int32: which program of the matrix product computes which tile."""
    out = torch.full((tiles_m, tiles_n), NOBODY, dtype=torch.int32, device=device)
    order_kernel[(tiles_m * tiles_n,)](order=out, tiles_m=tiles_m, tiles_n=tiles_n, GROUP=group)
    return out
