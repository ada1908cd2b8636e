"""Puzzle: what came before each rank, in rounds of twice the distance."""

# What is computed here is for the lines that you write.
# ruff: noqa: F841
import torch


# [puzzle:begin]
def before(
    states,  # [ranks, SIZE]: what each rank has summed of its piece
):
    ranks = states.shape[0]
    held = states.clone()  # what each rank holds so far
    distance = 1
    while distance < ranks:
        nothing = torch.zeros_like(held[:distance])
        # Your line: each adds what the rank at this distance before it holds.
        distance *= 2
    # Your line: what came before a rank leaves out its own.
    return held  # [ranks, SIZE]
    # [puzzle:end]
