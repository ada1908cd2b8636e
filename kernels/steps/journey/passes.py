"""How the two passes of the journey are launched: settings, the number of parts, their sum.

All inputs are contiguous: q, k [B, H, N, D] and v [B, H, N, Dv]. States are float32, flat: S row by
row, then z if the kernel computes it.
"""

from typing import NamedTuple

import torch

from ... import bidirectional, configs

EPS = 1e-6  # added to the denominator, as in the operator
PART = 4096  # rows of a part, as long as nobody asks how many programs the GPU holds


class Tile(NamedTuple):
    """How one pass is launched."""

    rows: int = 64  # of a tile
    num_warps: int = 4
    num_stages: int = 2
    resident: int | None = None  # programs of a multiprocessor that the grid fills; None: PART


class Settings(NamedTuple):
    """How both passes are launched."""

    state: Tile = Tile()
    output: Tile = Tile()


def of_library(dtype, device):
    """Settings by which the library launches its two passes for heads of 64."""
    arch, _ = configs.hardware(device)
    found = [configs.tile(f"{x}_kernel", 64, 64, dtype, arch) for x in Settings._fields]
    return Settings(*(Tile(t.rows, t.num_warps, t.num_stages, t.resident) for t in found))


def parts(tile, N, heads, device):
    """Into how many parts the rows of a head are cut."""
    if tile.resident is None:
        return max(1, configs.cdiv(N, PART))
    _, multiprocessors = configs.hardware(device)
    wanted = multiprocessors * tile.resident // heads
    return max(1, min(wanted, configs.cdiv(N, tile.rows)))


def share(N, parts, rows):
    """Rows of a part, in whole tiles."""
    return configs.cdiv(configs.cdiv(N, parts), rows) * rows


def partial_states(kernel, k, v, tile, *, z=True, many=None):
    """States [parts, heads, D · Dv + D]; without `z` [parts, heads, D · Dv]. `many`: parts."""
    B, H, N, D = k.shape
    DV = v.shape[-1]
    many = many or parts(tile, N, B * H, k.device)
    size = D * DV + (D if z else 0)
    states = torch.empty((many, B * H, size), dtype=torch.float32, device=k.device)
    kernel[(B * H, many)](
        k=k, v=v, states=states, N=N, share=share(N, many, tile.rows), D=D, DV=DV,
        BLOCK_N=tile.rows, num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    return states


def state(kernel, k, v, tile, *, z=True):
    """States [heads, D · Dv + D] of all rows; without `z` [heads, D · Dv]."""
    return bidirectional.combine(partial_states(kernel, k, v, tile, z=z)[:, None])[0]


def output(kernel, q, states, v, out, tile):
    """o [B, H, N, Dv], by one program for each tile of rows."""
    B, H, N, D = q.shape
    o = torch.empty_like(v) if out is None else out
    kernel[(B * H, configs.cdiv(N, tile.rows))](
        q=q, states=states, o=o, N=N, eps=EPS, D=D, DV=v.shape[-1],
        BLOCK_N=tile.rows, num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    return o


def looped_output(kernel, q, states, v, out, tile):
    """o [B, H, N, Dv], by one program for each part."""
    B, H, N, D = q.shape
    many = parts(tile, N, B * H, q.device)
    o = torch.empty_like(v) if out is None else out
    kernel[(B * H, many)](
        q=q, states=states, o=o, N=N, share=share(N, many, tile.rows), eps=EPS, D=D,
        DV=v.shape[-1], BLOCK_N=tile.rows, num_warps=tile.num_warps, num_stages=tile.num_stages,
    )  # fmt: skip
    return o
