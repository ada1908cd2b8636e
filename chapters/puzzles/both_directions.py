"""Puzzle: attention with decay in both directions, out of a causal one."""

# What is computed here is for the lines that you write.
# ruff: noqa: F401, F841
import torch


# [puzzle:begin]
def both_directions(
    causal,  # (q, k, v, log_decay) -> o, the causal sum without normalizer
    q,  # [H, N, D]
    k,  # [H, N, D]
    v,  # [H, N, Dv]
    log_decay,  # [H, N]: on the way to each token
):
    forward = causal(q, k, v, log_decay)
    back = log_decay.flip(1)
    # Your line: on the way back, token t is reached from t + 1.
    flipped = [x.flip(1) for x in (q, k, v)]
    reverse = causal(*flipped, back).flip(1)
    o = forward + reverse
    # Your lines: what is in both?
    return o  # [H, N, Dv]
    # [puzzle:end]
