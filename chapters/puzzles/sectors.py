"""Puzzle: how many sectors of memory a warp touches with one load."""

# What is imported here is for the lines that you write.
# ruff: noqa: F401
import torch


# [puzzle:begin]
def sectors(addresses):  # [..., 32] int64: byte where a lane reads 4
    numbers = addresses  # [..., 32]
    # Your line: turn addresses into numbers of sectors, which are 32 bytes long.
    # Your line: bring equal numbers together.
    count = (numbers[..., 1:] != numbers[..., :-1]).sum(-1)  # [...]
    # Your line: the first number counts as well.
    return count.float()
    # [puzzle:end]
