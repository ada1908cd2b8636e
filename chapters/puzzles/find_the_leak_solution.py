"""Solution of the puzzle `find_the_leak`."""

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
        for x in other:
            x[t + 1 :] = torch.randn_like(x[t + 1 :])
        after = forward(*other)
        found[t] = not torch.equal(after[: t + 1], before[: t + 1])
    return found
    # [puzzle:end]
