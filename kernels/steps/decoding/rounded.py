"""A recurrent state that is rounded after every token, as if it were stored in a narrow dtype.

The library keeps states in float32. This kernel shows what happens otherwise: it adds one token
after another in float32 registers, and after each of them rounds the state to what the narrower
dtype can hold.
"""

import torch
import triton
import triton.language as tl

ROUNDINGS = ("float32", "float16", "bfloat16", "stochastic")  # the last one is to bfloat16 too


# [round:begin]
@triton.jit
def rounded(x, noise, TO: tl.constexpr):
    """A float32 tile rounded to TO and back; `noise` is a tile of random integers."""
    if TO == "float32":
        return x
    elif TO == "float16":
        return x.to(tl.float16).to(tl.float32)
    else:  # bfloat16 is the upper half of a float32
        bits = x.to(tl.uint32, bitcast=True)
        if TO == "bfloat16":  # to the nearest, and to the even one of two
            bits += 0x7FFF + ((bits >> 16) & 1)
        else:  # up or down by chance, the nearer one more often
            tl.static_assert(TO == "stochastic", "unknown rounding")
            bits += noise.to(tl.uint32) & 0xFFFF
        return ((bits >> 16) << 16).to(tl.float32, bitcast=True)
    # [round:end]


# [walk:begin]
@triton.jit
def walk_kernel(
    fk,  # [H, N, D] contiguous: φ(k)
    v,  # [H, N, DV] contiguous
    s,  # [H, D, DV] float32 contiguous: read and written
    z,  # [H, D] float32 contiguous: read and written
    N, seed,
    D: tl.constexpr, DV: tl.constexpr, TO: tl.constexpr,
):  # fmt: skip
    """Adds N tokens to the state of one head, one by one; D and DV are powers of two."""
    head = tl.program_id(0).to(tl.int64)
    offs_d = tl.arange(0, D)
    offs_dv = tl.arange(0, DV)
    offs_s = offs_d[:, None] * DV + offs_dv[None, :]
    fk += head * N * D
    v += head * N * DV
    s += head * D * DV
    z += head * D
    b_s = tl.load(s + offs_s)  # [D, DV]
    b_z = tl.load(z + offs_d)  # [D]
    for n in range(0, N):
        b_fk = tl.load(fk + n * D + offs_d).to(tl.float32)  # [D]
        b_v = tl.load(v + n * DV + offs_dv).to(tl.float32)  # [DV]
        b_s += b_fk[:, None] * b_v[None, :]
        b_z += b_fk
        if TO == "stochastic":
            b_s = rounded(b_s, tl.randint(seed + n, head * (D * DV + D) + offs_s), TO)
            b_z = rounded(b_z, tl.randint(seed + n, head * (D * DV + D) + D * DV + offs_d), TO)
        else:
            b_s = rounded(b_s, 0, TO)
            b_z = rounded(b_z, 0, TO)
    tl.store(s + offs_s, b_s)
    tl.store(z + offs_d, b_z)
    # [walk:end]


def walk(fk, v, s, z, to: str, seed: int = 0) -> None:
    """Adds all tokens of fk [H, N, D] and v [H, N, Dv] to s [H, D, Dv] and z [H, D], in place.

    s and z are float32, D and Dv powers of two, at most 2³¹ elements a head; `to` is one of
    ROUNDINGS. `seed` is the number of tokens that came before, so that no random number is used
    twice; only "stochastic" looks at it.
    """
    if to not in ROUNDINGS:
        raise ValueError(f"to is {to!r}; allowed are {', '.join(ROUNDINGS)}")
    H, N, D = fk.shape
    for x in (fk, v, s, z):
        if not x.is_contiguous():
            raise ValueError("all tensors have to be contiguous")
    walk_kernel[(H,)](fk=fk, v=v, s=s, z=z, N=N, seed=seed, D=D, DV=v.shape[2], TO=to, num_warps=4)


def exact(fk, v, s: torch.Tensor, z: torch.Tensor, rows: int = 1 << 16) -> None:
    """The same in float64, `rows` tokens at a time; s and z are float64."""
    for a, b in zip(fk.split(rows, 1), v.split(rows, 1), strict=True):
        a, b = a.double(), b.double()
        s += a.mT @ b
        z += a.sum(1)
