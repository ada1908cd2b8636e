"""The small kernels that lead to the library's causal ones: one idea a file.

`STEPS` names them in the order of the chapter "Causal linear attention". Each has a
`forward(q, k, v)` for contiguous q, k [B, H, N, D] and v [B, H, N, Dv], float32 or bfloat16, and
says in its docstring for which shapes it is right. `leak` is wrong on purpose, `atomics` gives
other bits on every run, and `order` is about programs alone.
"""

from collections.abc import Callable
from typing import NamedTuple

from .. import split
from . import atomics, chained, chunked, cumulative, normalized, recurrent, segmented

__all__ = ["STEPS", "Step"]


class Step(NamedTuple):
    """A step of the chapter: what it computes, and which kernels it launches."""

    name: str
    idea: str
    forward: Callable  # (q, k, v) -> o
    kernels: tuple = ()  # (module, name of the @triton.jit function) of its own kernels
    feature_map: str = "elu"
    normalize: bool = True


STEPS = (
    Step("cumulative", "every S_t at once, PyTorch", cumulative.forward),
    Step(
        "recurrent",
        "one token at a time",
        recurrent.forward,
        ((recurrent, "recurrent_kernel"),),
        feature_map="identity",
        normalize=False,
    ),
    Step(
        "chunked",
        "a chunk at a time",
        chunked.forward,
        ((chunked, "chunked_kernel"),),
        feature_map="identity",
        normalize=False,
    ),
    Step(
        "normalized",
        "φ and the normalizer",
        normalized.forward,
        ((normalized, "normalized_kernel"),),
    ),
    Step(
        "segmented",
        "segments side by side, in three launches",
        segmented.forward,
        ((split, "state_kernel"), (segmented, "prefix_kernel"), (segmented, "segment_kernel")),
    ),
    Step(
        "atomics",
        "segments added up in any order",
        atomics.forward,
        ((atomics, "atomic_state_kernel"),),
    ),
    Step(
        "chained",
        "segments hand on their state, in one launch",
        chained.forward,
        ((chained, "link_kernel"),),
    ),
)
