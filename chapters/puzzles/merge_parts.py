"""Puzzle: attention whose keys were shared out among several workers, put together again."""

# What is imported here is for the lines that you write.
# ruff: noqa: F401
import torch


# [puzzle:begin]
def merge(
    o,  # [P, N, Dv], of each part: sum of exp(s - m) v over its keys
    m,  # [P, N, 1], of each part: its largest score; -inf if it has no key
    total,  # [P, N, 1], of each part: sum of exp(s - m) over its keys
):
    # Your lines: every part subtracted a maximum of its own.
    return o.sum(0) / total.sum(0)  # [N, Dv]
    # [puzzle:end]
