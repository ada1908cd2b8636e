"""The small kernels that lead to those of the library: one idea a file.

`STEPS` names them in the order of the chapter "Kernel development step by step". Each has a
`forward(q, k, v, out=None)` for q, k [B, H, N, D] and v [B, H, N, Dv], float32 or bfloat16, and
says in its docstring for which shapes it is right. Some are wrong on purpose, to be mended by the
next; none is what the library runs.
"""

from collections.abc import Callable
from typing import NamedTuple

from . import mask_trap, masked, normalized, output_pass, split, state_pass, strided
from .state_pass import BLOCK_N

__all__ = ["BLOCK_N", "STEPS", "Step"]


class Step(NamedTuple):
    """A step of the chapter: what it computes, and where its kernels are."""

    name: str
    idea: str
    forward: Callable  # (q, k, v, out=None) -> o
    regions: tuple  # (module, name of the marked region) of each kernel
    feature_map: str = "elu"
    normalize: bool = True
    whole_blocks: bool = False  # leaves its tensors unless N is a multiple of BLOCK_N


STEPS = (
    Step(
        "two-passes",
        "state pass, output pass",
        output_pass.forward,
        ((state_pass, "state-pass"), (output_pass, "output-pass")),
        feature_map="identity",
        normalize=False,
        whole_blocks=True,
    ),
    Step(
        "normalized",
        "φ and the normalizer",
        normalized.forward,
        ((normalized, "phi"), (normalized, "state-pass"), (normalized, "output-pass")),
        whole_blocks=True,
    ),
    Step(
        "mask-trap",
        "masked loads and stores",
        mask_trap.forward,
        ((normalized, "phi"), (mask_trap, "state-pass"), (masked, "output-pass")),
    ),
    Step(
        "masked",
        "φ masked as well",
        masked.forward,
        ((normalized, "phi"), (masked, "state-pass"), (masked, "output-pass")),
    ),
    Step(
        "strided",
        "strides, offsets in 64 bits",
        strided.forward,
        ((normalized, "phi"), (strided, "state-pass"), (strided, "output-pass")),
    ),
    Step(
        "split",
        "rows in parts",
        split.forward,
        (
            (normalized, "phi"),
            (split, "state-pass"),
            (split, "combine"),
            (strided, "output-pass"),
        ),
    ),
)
