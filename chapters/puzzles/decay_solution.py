"""Solution of the puzzle `decay`."""

import torch


# [puzzle:begin]
def retention(
    q,  # [H, N, D]
    k,  # [H, N, D]
    v,  # [H, N, Dv]
    decay,  # between 0 and 1
    C,  # tokens of a chunk
):
    S = q.new_zeros(q.shape[0], q.shape[2], v.shape[2])  # [H, D, Dv]
    out = []
    for i in range(0, q.shape[1], C):
        qc, kc, vc = q[:, i : i + C], k[:, i : i + C], v[:, i : i + C]
        place = torch.arange(qc.shape[1], device=q.device)  # 0 … C - 1, or fewer
        weights = (qc @ kc.mT).tril()  # [H, C, C]
        weights = weights * decay ** (place[:, None] - place).clamp(min=0)
        before = qc @ S  # [H, C, Dv], S as of the last token before i
        before = before * decay ** (place[:, None] + 1)
        out.append(weights @ vc + before)
        kc = kc * decay ** (len(place) - 1 - place[:, None])
        S = S * decay ** len(place)
        S = S + kc.mT @ vc
    return torch.cat(out, 1)  # [H, N, Dv]
    # [puzzle:end]
