"""Solution of the puzzle `decay_mask`."""

import torch


# [puzzle:begin]
def decay_mask(
    log_decay,  # [H, N], at most 0: on the way to each token
):
    total = log_decay.cumsum(-1)  # [H, N]
    between = total[:, :, None] - total[:, None, :]  # [H, i, j]
    between = -between.abs()
    return torch.exp(between)  # [H, N, N]
    # [puzzle:end]
