"""Puzzle: softmax of any row, one of large numbers or one where everything is masked."""

# What is imported here is for the lines that you write.
# ruff: noqa: F401
import torch


# [puzzle:begin]
def softmax(x):  # [..., M] float32, any numbers, -inf where masked
    # Your lines: subtract the largest number of each row; a row may have none but -inf.
    e = torch.exp(x)  # [..., M]
    total = e.sum(-1, keepdim=True)  # [..., 1]
    # Your line: a row where everything is masked is to get weights of 0, and not NaN.
    return e / total
    # [puzzle:end]
