"""Puzzle: the features whose dot product is 1 + s + s²/2, without one that is there twice."""

# What is computed here is for the lines that you write.
# ruff: noqa: F841
import torch


# [puzzle:begin]
def features(
    x,  # [N, D]
):
    N, D = x.shape
    x = x / D**0.25  # so that the dot product of two of them is s = q·k / √D
    i, j = torch.triu_indices(D, D, device=x.device)  # D (D + 1) / 2 pairs, i ≤ j
    pairs = x[:, i] * x[:, j]  # [N, D (D + 1) / 2]
    # Your line: in s² each pair with i < j stands twice, and s² / 2 is wanted.
    return torch.cat([torch.ones_like(x[:, :1]), x, pairs], 1)
    # [puzzle:end]
