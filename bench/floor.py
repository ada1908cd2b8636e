"""The floor: a device-to-device copy that moves the bytes which any method has to move.

Attention reads q, k and v and writes o, whatever it does in between. A copy of half as many bytes
(each read once and written once) moves the same amount and computes nothing. No method that keeps
its inputs in the GPU's memory is faster, so `floor / time` says how near the limit it runs.
"""

import torch


def copy_call(nbytes: int, device="cuda"):
    """A call that moves `nbytes` bytes in all: half of them read, half of them written."""
    source = torch.zeros(max(1, nbytes // 2), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)
