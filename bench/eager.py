"""Linear attention as one writes it in PyTorch without a kernel: the contender to beat first.

o = φ(q) (φ(k)ᵀ v) / (φ(q) · Σ φ(k) + eps) with φ = elu + 1, in the dtype of the inputs. It is
vectorised: no loop over tokens or chunks. Every operation reads and writes the GPU's memory.
"""

import torch
import torch.nn.functional as F


def bidirectional_attention(q, k, v, eps: float = 1e-6):
    """Four matrix products and the elementwise rest; [B, H, N, D] → [B, H, N, Dv]."""
    q, k = F.elu(q) + 1, F.elu(k) + 1
    kv = k.mT @ v  # [B, H, D, Dv]
    z = k.sum(-2).unsqueeze(-1)  # [B, H, D, 1]
    return (q @ kv) / (q @ z + eps)


def causal_attention(q, k, v, eps: float = 1e-6, chunk: int = 64):
    """The chunked form: attention inside a chunk, a running sum of states between chunks.

    The states of all chunks are summed in float32 and held at once, [B, H, N / chunk, D, Dv]:
    as large as the inputs and more, and the reason why this form runs out of memory first.
    """
    N = q.shape[-2]
    q, k = F.elu(q) + 1, F.elu(k) + 1
    q, k, v = (F.pad(x, (0, 0, 0, -N % chunk)).unflatten(-2, (-1, chunk)) for x in (q, k, v))
    weights = (q @ k.mT).tril()  # [B, H, chunks, chunk, chunk]
    kv = _before(k.mT @ v)  # [B, H, chunks, D, Dv]
    z = _before(k.sum(-2).unsqueeze(-1))  # [B, H, chunks, D, 1]
    numerator = weights @ v + q @ kv
    denominator = weights.sum(-1, keepdim=True) + q @ z
    return (numerator / (denominator + eps)).flatten(-3, -2)[..., :N, :]


def _before(x):
    """The sum over all earlier chunks, in float32: [B, H, chunks, ·, ·] → the same, first zero."""
    total = x.cumsum(2, dtype=torch.float32)[:, :, :-1]
    return F.pad(total, (0, 0, 0, 0, 1, 0)).to(x.dtype)


def linear_attention(q, k, v, *, causal: bool = False):
    """Either of the two; q, k: [B, H, N, D], v: [B, H, N, Dv], all of one dtype."""
    return causal_attention(q, k, v) if causal else bidirectional_attention(q, k, v)
