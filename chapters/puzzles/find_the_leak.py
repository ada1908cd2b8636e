"""Puzzle: a test that finds every leak from the future."""

# What is imported and computed here is for the lines that you write.
# ruff: noqa: F841, B007
import torch


# [puzzle:begin]
def leaks(
    forward,  # (q, k, v) -> o [N, D]; the same inputs give the same bits
    q,  # [N, D]
    k,  # [N, D]
    v,  # [N, D]
):
    """[N - 1] float32: 1 where outputs up to token t depend on a token after t, else 0."""
    N = q.shape[0]
    before = forward(q, k, v)
    found = torch.zeros(N - 1)
    for t in range(N - 1):
        other = [x.clone() for x in (q, k, v)]
        # Your lines: change what o[: t + 1] must not depend on, and look whether it does.
    return found
    # [puzzle:end]
