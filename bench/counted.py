"""What chapters count in Triton's interpreter, in a process of its own, beside which a GPU is used.

counted.apart("steps", names=["columns", "looped"])
"""

from functools import partial

import torch

from . import fresh, style
from .errors import BenchError
from .traffic import traffic


def apart(function: str, **arguments) -> dict:
    """What a function of this module returns, from a new process in which Triton interprets.

    Raises BenchError where that process fails.
    """
    hidden = {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    found = fresh.call(__name__, function, arguments, timeout_s=300.0, **hidden)
    if "failed" in found:
        raise BenchError(f"The bytes of {function} could not be counted: {found['failed']}.")
    return found


# [steps:begin]
def steps(names, N=512, H=2, D=64):
    """How often steps of chapter 7 load q, and the bytes of states that they load."""
    from kernels.steps.journey import named

    found = {}
    for name in names:
        q, k, v = (torch.randn(1, H, N, D) for _ in range(3))
        moved = traffic(partial(named(name).forward, q, k, v))
        found[name] = {"q": moved["q"].loaded / q.nbytes, "states": moved["states"].loaded}
    return found
    # [steps:end]


# [backward:begin]
def backward(N=1024, D=64):
    """Tensors that the library's backward pass loads and stores, by order."""
    from kernels import configs, linear_attention

    configs.SHORT = configs.SHARED = 0  # take the way of long sequences
    found = {}
    for causal in (False, True):
        x = [torch.randn(1, 1, N, D, requires_grad=True) for _ in range(3)]
        o = linear_attention(*x, causal=causal)
        moved = traffic(partial(torch.autograd.grad, o, x, torch.ones_like(o)))
        names = {"q", "k", "v", "o", "do", "dq", "dk", "dv"} & set(moved)
        total = sum(moved[name].loaded + moved[name].stored for name in names)
        found[style.order(causal)] = total / o.nbytes
    return found
    # [backward:end]
