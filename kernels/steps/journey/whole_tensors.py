"""Step 2: no loop, whole tensors at a time: a dozen kernels, each reading and writing memory.

Right for any N, D, Dv and strides, on any device. z is summed in float32, the rest is in the
dtype of the inputs.
"""

import torch

EPS = 1e-6  # added to the denominator, as in the operator


# [kernel:begin]
def phi(x):
    """φ(x) = elu(x) + 1 in x's dtype: two kernels, each of which reads and writes a tensor."""
    return torch.nn.functional.elu(x) + 1


def denominator(fq, fk):
    """φ(q)·z + eps: [B, H, N, 1] of fq, fk [B, H, N, D]."""
    z = fk.sum(-2, dtype=torch.float32)  # [B, H, D]
    return fq @ z.unsqueeze(-1).to(fq.dtype) + EPS


def forward(q, k, v, out=None):
    """o [B, H, N, Dv] of q, k [B, H, N, D] and v [B, H, N, Dv]; written to `out` if given."""
    fq, fk = phi(q), phi(k)  # [B, H, N, D]
    s = fk.mT @ v  # [B, H, D, Dv]
    return torch.div(fq @ s, denominator(fq, fk), out=out)
    # [kernel:end]
