"""Solution of the puzzle `masked_blocks`."""

import torch


# [puzzle:begin]
def attention(
    q,  # [H, N, D]
    k,  # [H, M, D]
    v,  # [H, M, Dv]
    keep,  # [M] bool: which keys may be seen
    block=16,
):
    m = torch.full_like(q[..., :1], float("-inf"))  # [H, N, 1]
    total = torch.zeros_like(m)  # [H, N, 1]
    o = torch.zeros_like(q[..., :1] * v[:, :1])  # [H, N, Dv]
    for start in range(0, k.shape[1], block):
        rows = slice(start, start + block)
        s = q @ k[:, rows].mT / q.shape[-1] ** 0.5  # [H, N, block]
        s = s.masked_fill(~keep[rows], float("-inf"))
        m_new = torch.maximum(m, s.amax(-1, keepdim=True))
        m_new = m_new.clamp(min=torch.finfo(s.dtype).min)
        scale = torch.exp(m - m_new)  # [H, N, 1]
        total = total * scale
        o = o * scale
        p = torch.exp(s - m_new)
        total = total + p.sum(-1, keepdim=True)
        o = o + p @ v[:, rows]
        m = m_new
    total = total.masked_fill(total == 0, 1)
    return o / total
    # [puzzle:end]
