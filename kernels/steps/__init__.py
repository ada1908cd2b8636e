"""The small kernels that lead to those of the library: one idea a file.

`STEPS` names them in the order of the chapter "Kernel development step by step". Each has a
`forward(q, k, v, out=None)` for q, k [B, H, N, D] and v [B, H, N, Dv], float32 or bfloat16, and
says in its docstring for which shapes it is right. Some are wrong on purpose, to be mended by the
next; none is what the library runs.
"""

from collections.abc import Callable
from typing import NamedTuple

from . import mask_trap, masked, normalized, output_pass, split, strided


class Step(NamedTuple):
    """A step of the chapter: what it computes, and the files that hold its kernels."""

    name: str
    idea: str
    forward: Callable  # (q, k, v, out=None) -> o
    modules: tuple  # where its kernels are
    feature_map: str = "elu"
    normalize: bool = True


STEPS = (
    Step("two-passes", "state pass, output pass", output_pass.forward, (output_pass,),
         feature_map="identity", normalize=False),
    Step("normalized", "φ and the normalizer", normalized.forward, (normalized,)),
    Step("mask-trap", "masked loads", mask_trap.forward, (mask_trap,)),
    Step("masked", "φ masked too", masked.forward, (masked,)),
    Step("strided", "strides, 64-bit offsets", strided.forward, (strided,)),
    Step("split", "rows in parts", split.forward, (split,)),
)  # fmt: skip
