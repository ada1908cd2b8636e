"""Puzzle: causal attention for the last tokens of a sequence, as when a model generates text."""

# What is imported and computed here is for the lines that you write.
# ruff: noqa: F841
import torch


# [puzzle:begin]
def attention(
    q,  # [H, N, D], of the last N of M tokens
    k,  # [H, M, D], of all M tokens
    v,  # [H, M, D]
):
    N, M, D = q.shape[1], k.shape[1], q.shape[2]
    scores = q @ k.mT / D**0.5  # [H, N, M]
    # Your lines: no query may see a key that comes after it.
    weights = torch.softmax(scores, -1)  # [H, N, M]
    return weights @ v  # [H, N, D]
    # [puzzle:end]
