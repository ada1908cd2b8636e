"""Solution of the puzzle `two_halves`."""

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
    low = (total - high.float()).to(torch.bfloat16)
    return high, low
    # [puzzle:end]
