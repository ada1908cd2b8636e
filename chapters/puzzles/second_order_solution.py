"""Solution of the puzzle `second_order`."""

import torch


# [puzzle:begin]
def features(
    x,  # [N, D]
):
    N, D = x.shape
    x = x / D**0.25  # so that the dot product of two of them is s = q·k / √D
    i, j = torch.triu_indices(D, D, device=x.device)  # D (D + 1) / 2 pairs, i ≤ j
    pairs = x[:, i] * x[:, j]  # [N, D (D + 1) / 2]
    pairs = torch.where(i == j, 0.5**0.5, 1.0).to(x) * pairs
    return torch.cat([torch.ones_like(x[:, :1]), x, pairs], 1)
    # [puzzle:end]
