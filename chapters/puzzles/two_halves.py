"""Puzzle: a running sum that is kept in two bfloat16 numbers."""

# What is computed here is for the lines that you write.
# ruff: noqa: F841
import torch


# [puzzle:begin]
def add(
    high,  # [H, D] bfloat16: the sum so far, and
    low,  # [H, D] bfloat16: what does not fit into `high`
    x,  # [H, D] float32: to be added
):
    total = high.float() + low.float() + x  # [H, D] float32
    high = total.to(torch.bfloat16)
    low = torch.zeros_like(high)
    # Your line: what has `high` lost?
    return high, low
    # [puzzle:end]
