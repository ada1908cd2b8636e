"""What the answer is: softmax and linear attention in float64, for a few heads of a large input.

A head is an input of its own, so checking some heads in full finds whatever a kernel gets wrong
along the sequence. `pick_heads` takes the first, the last and as many between as are quick.
GPUs that compute float64 thirty times slower than float32 take float32 for half-precision softmax
attention of long sequences; every result says which it was compared with.
"""

from dataclasses import dataclass

import torch

from .roofline import Shape


@dataclass(frozen=True)
class Function:
    """What a contender computes, so that contenders of one function share one truth."""

    family: str  # "linear" or "softmax"
    feature_map: str = "elu"  # of linear attention
    normalize: bool = True
    ready: bool = False  # it is given φ(q) and φ(k), φ = elu + 1 in the dtype of the inputs


SOFTMAX = Function("softmax")
LINEAR = Function("linear")


@dataclass(frozen=True)
class Truth:
    """Float64 tensors [heads, N, ·] by name ("o", and "dq", "dk", "dv" with gradients)."""

    tensors: dict[str, torch.Tensor]
    heads: list[int]  # indices into the B·H heads
    batch: tuple[int, int]  # B and H of the whole
    how: str  # "float64 chunked linear attention"


def pick_heads(shape: Shape, function: Function) -> list[int]:
    """Head indices: the first, the last, and those between that are cheap enough to compute."""
    heads = shape.B * shape.H
    softmax = function.family == "softmax"
    affordable = 2**33 // shape.N**2 if softmax else 2**18 // shape.N
    count = min(heads, max(2, affordable))
    if count == 1:
        return [0]
    return sorted({round(i * (heads - 1) / (count - 1)) for i in range(count)})


def compute(function: Function, shape: Shape, q, k, v, do=None) -> Truth:
    """The truth for q, k: [B, H, N, D] and v: [B, H, N, Dv] of any dtype.

    With `do` [B, H, N, Dv], the gradient of the output, also the gradients of q, k and v.
    """
    heads = pick_heads(shape, function)
    dtype = torch.float64 if _affords_float64(function, shape, q) else torch.float32
    q, k, v, do = (
        None if x is None else x.detach().flatten(0, 1)[heads].to(dtype) for x in (q, k, v, do)
    )
    if function.family == "softmax":
        tensors = softmax_attention(q, k, v, do, causal=shape.causal)
        how = "softmax attention"
    else:
        tensors = linear_attention(q, k, v, do, causal=shape.causal, function=function)
        how = "chunked linear attention"
    how = f"{str(dtype).removeprefix('torch.')} {how}"
    tensors = {name: x.double() for name, x in tensors.items()}
    return Truth(tensors, heads, (shape.B, shape.H), how)


def _affords_float64(function: Function, shape: Shape, q) -> bool:
    """False for long softmax attention in half precision on a GPU without fast float64."""
    if not q.is_cuda or function.family != "softmax" or shape.dtype == "float32" or shape.N <= 4096:
        return True
    fast = {(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)}  # P100, V100, A100, H100 and H200, B200
    return torch.cuda.get_device_capability(q.device) in fast


def softmax_attention(q, k, v, do=None, *, causal: bool, rows: int = 1024) -> dict:
    """softmax(q kᵀ / √D) v and its gradients, `rows` queries of one head at a time.

    q, k: [heads, N, D]; v, do: [heads, N, Dv]. The N × N weights are never held in full.
    """
    heads, N, D = q.shape
    scale = D**-0.5
    out = {"o": torch.empty_like(v)}
    if do is not None:
        out |= {"dq": torch.empty_like(q), "dk": torch.zeros_like(k), "dv": torch.zeros_like(v)}
    for h in range(heads):
        for start in range(0, N, rows):
            stop = min(start + rows, N)
            keys = stop if causal else N
            qb, kb, vb = q[h, start:stop], k[h, :keys], v[h, :keys]
            weights = (qb @ kb.mT).mul_(scale)  # [rows, keys]
            if causal:
                future = torch.ones_like(weights, dtype=torch.bool).triu_(start + 1)
                weights.masked_fill_(future, float("-inf"))
            weights = weights.softmax(-1)
            o = weights @ vb
            out["o"][h, start:stop] = o
            if do is None:
                continue
            dob = do[h, start:stop]
            dweights = dob @ vb.mT
            dscores = dweights.sub_((dob * o).sum(-1, keepdim=True)).mul_(weights).mul_(scale)
            out["dq"][h, start:stop] = dscores @ kb
            out["dk"][h, :keys] += dscores.mT @ qb
            out["dv"][h, :keys] += weights.mT @ dob
    return out


def linear_attention(q, k, v, do=None, *, causal: bool, function: Function = LINEAR) -> dict:
    """The chunked reference of the book and its gradients by autograd; shapes as above."""
    from kernels import reference

    options = {"feature_map": function.feature_map, "normalize": function.normalize}
    q, k, v = (x.unsqueeze(0).requires_grad_(do is not None) for x in (q, k, v))
    o = reference.chunked(q, k, v, causal=causal, **options)
    out = {"o": o.detach()[0]}
    if do is not None:
        gradients = torch.autograd.grad(o, (q, k, v), do.unsqueeze(0))
        out |= {name: g[0] for name, g in zip(("dq", "dk", "dv"), gradients, strict=True)}
    return out
