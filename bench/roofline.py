"""The model: the bytes and FLOPs that a method needs for a shape, before anything is measured.

Both are what the mathematics asks for, not what a kernel happens to execute: a kernel that reads
its keys twice, or that multiplies out the masked half of a tile, gets no credit for it.
A multiply-add counts as 2 FLOPs. Softmax, φ and the division are left out.
"""

from dataclasses import dataclass

FORWARD = "forward"
FORWARD_BACKWARD = "forward+backward"
WORKS = (FORWARD, FORWARD_BACKWARD)
ITEM_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class Shape:
    """q, k: [B, H, N, D]; v, o: [B, H, N, Dv]; all in `dtype` ("bfloat16", …)."""

    B: int
    H: int
    N: int
    D: int = 64
    Dv: int = 64
    dtype: str = "bfloat16"
    causal: bool = False

    def __str__(self):
        order = "causal" if self.causal else "bidirectional"
        return f"({self.B}, {self.H}, {self.N}, {self.D}) {order} {self.dtype}"


def ideal_bytes(shape: Shape, work: str) -> int:
    """Bytes that have to cross the memory bus once.

    Forward: q, k, v in, o out. Backward: q, k, v, do in, dq, dk, dv out. For D = Dv these are
    4 and 7 tensors, and forward + backward moves 11.
    """
    queries = shape.B * shape.H * shape.N * shape.D * ITEM_BYTES[shape.dtype]  # q, k, dq or dk
    values = shape.B * shape.H * shape.N * shape.Dv * ITEM_BYTES[shape.dtype]  # v, o, do or dv
    forward = 2 * queries + 2 * values
    backward = 4 * queries + 3 * values
    return forward if work == FORWARD else forward + backward


def ideal_flops(shape: Shape, work: str, family: str, chunk: int = 64) -> int:
    """FLOPs of a method of `family` "linear" or "softmax".

    Softmax: q kᵀ and p v, each N × N; a causal mask needs half. The backward pass has five such
    products (p again, dv, dp, dq, dk) where the forward has two.
    Linear: φ(k)ᵀ v and φ(q) S, each N × D × Dv; the backward pass has four such products. When
    causal, half of a `chunk` × `chunk` block of q kᵀ and p v is added for each chunk.
    """
    tokens = shape.B * shape.H * shape.N
    pair = shape.D + shape.Dv  # multiply-adds of q·k and p·v for one query and one key
    if family == "softmax":
        keys = (shape.N + 1) / 2 if shape.causal else shape.N
        forward = 2 * tokens * keys * pair
        backward = 2 * tokens * keys * (3 * shape.D + 2 * shape.Dv)
    elif family == "linear":
        state = 2 * tokens * shape.D * shape.Dv
        keys = (min(chunk, shape.N) + 1) / 2 if shape.causal else 0
        forward = 2 * state + 2 * tokens * keys * pair
        backward = 4 * state + 2 * tokens * keys * (3 * shape.D + 2 * shape.Dv)
    else:
        raise ValueError(f"family is {family!r}; allowed are 'linear' and 'softmax'")
    return round(forward if work == FORWARD else forward + backward)


def least_ms(nbytes: float, flops: float, bandwidth: float, rate: float) -> float:
    """Roofline: the larger of bytes / bandwidth [B/s] and FLOPs / rate [FLOP/s], in ms."""
    return 1e3 * max(nbytes / bandwidth, flops / rate)
