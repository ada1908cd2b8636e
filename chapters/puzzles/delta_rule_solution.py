"""Solution of the puzzle `delta_rule`."""

import torch


# [puzzle:begin]
def replace(
    q,  # [H, N, D]
    k,  # [H, N, D], of length 1
    v,  # [H, N, Dv]
):
    S = q.new_zeros(q.shape[0], q.shape[2], v.shape[2])  # [H, D, Dv]
    out = []
    for t in range(q.shape[1]):
        qt, kt, vt = q[:, t], k[:, t], v[:, t]
        old = torch.einsum("hd,hdv->hv", kt, S)  # what the key finds so far
        vt = vt - old
        S = S + torch.einsum("hd,hv->hdv", kt, vt)
        out.append(torch.einsum("hd,hdv->hv", qt, S))
    return torch.stack(out, 1)  # [H, N, Dv]
    # [puzzle:end]
