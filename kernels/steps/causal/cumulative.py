"""Causal linear attention by cumulative sums: every S_t is made, and all of them are held at once.

A few lines of PyTorch, right for every shape, and the largest tensor of this book,
[B, H, N, D, Dv].
"""

from kernels.feature_maps import FEATURE_MAPS

from ..normalized import EPS


# [cumulative:begin]
def forward(q, k, v):
    """o [B, H, N, Dv] in q's dtype, from q, k [B, H, N, D] and v [B, H, N, Dv]."""
    fq, fk = (FEATURE_MAPS["elu"](x.float()) for x in (q, k))
    s = (fk.unsqueeze(-1) * v.float().unsqueeze(-2)).cumsum(2)  # [B, H, N, D, Dv]
    z = fk.cumsum(2)  # [B, H, N, D]
    above = (fq.unsqueeze(-2) @ s).squeeze(-2)  # [B, H, N, Dv]
    below = (fq * z).sum(-1, keepdim=True)  # [B, H, N, 1]
    return (above / (below + EPS)).to(q.dtype)
    # [cumulative:end]
