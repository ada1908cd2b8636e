"""Solution of the puzzle `doubling`."""

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
        held = held + torch.cat([nothing, held[:-distance]])
        distance *= 2
    held = torch.cat([torch.zeros_like(held[:1]), held[:-1]])
    return held  # [ranks, SIZE]
    # [puzzle:end]
