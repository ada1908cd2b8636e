"""Solution of the puzzle `stable_softmax`."""

import torch


# [puzzle:begin]
def softmax(x):  # [..., M] float32, any numbers, -inf where masked
    largest = x.amax(-1, keepdim=True)  # [..., 1]
    largest = largest.masked_fill(largest == float("-inf"), 0)
    x = x - largest
    e = torch.exp(x)  # [..., M]
    total = e.sum(-1, keepdim=True)  # [..., 1]
    total = total.masked_fill(total == 0, 1)
    return e / total
    # [puzzle:end]
