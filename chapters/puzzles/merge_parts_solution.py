"""Solution of the puzzle `merge_parts`."""

import torch


# [puzzle:begin]
def merge(
    o,  # [P, N, Dv], of each part: sum of exp(s - m) v over its keys
    m,  # [P, N, 1], of each part: its largest score; -inf if it has no key
    total,  # [P, N, 1], of each part: sum of exp(s - m) over its keys
):
    scale = torch.exp(m - m.amax(0))  # [P, N, 1], at most 1
    o = o * scale
    total = total * scale
    return o.sum(0) / total.sum(0)  # [N, Dv]
    # [puzzle:end]
