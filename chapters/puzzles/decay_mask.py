"""Puzzle: the mask of linear attention with decay in both directions, without overflow."""

# What is computed here is for the lines that you write.
# ruff: noqa: F841
import torch


# [puzzle:begin]
def decay_mask(
    log_decay,  # [H, N], at most 0: on the way to each token
):
    total = log_decay.cumsum(-1)  # [H, N]
    between = total[:, :, None] - total[:, None, :]  # [H, i, j]
    # Your line: a product of factors is at most 1, on both sides.
    return torch.exp(between)  # [H, N, N]
    # [puzzle:end]
