"""The ladder of the chapter "Optimization journey": from a loop in Python to the library's kernels.

`STEPS` names them in order. Each has a `forward(q, k, v, out=None)` for contiguous q, k
[B, H, N, D] and v [B, H, N, Dv], float32 or bfloat16, computes normalized bidirectional attention
with φ = elu + 1, and says in its docstring for which shapes it is right. Each changes one thing of
the step named by `before`, which is not always the one above it: what did not help is left out
again.
"""

from collections.abc import Callable
from typing import NamedTuple

from ... import bidirectional
from ...ops import linear_attention
from . import (
    columns,
    eight_warps,
    fused,
    guessed_waves,
    looped,
    masks,
    masks_again,
    packed,
    passes,
    pipelined,
    python_loop,
    reciprocal,
    rows,
    split,
    tensor_cores,
    tiles,
    too_deep,
    transposed,
    whole_tensors,
    whole_waves,
    wide,
    wider,
)

__all__ = ["STEPS", "Step", "named"]


class Step(NamedTuple):
    """A step of the ladder: its idea, what it grew out of, and where its code is."""

    name: str
    idea: str
    forward: Callable  # (q, k, v, out=None) -> o
    before: str | None  # the step that it changes
    regions: tuple  # (module, name of a marked region), what the step's diff is made of
    kernels: tuple = ()  # (pass, Triton kernel) in the order of their launches
    settings: passes.Settings | None = None  # of the two passes; the library chooses its own
    rows: int = 1  # N has to be a multiple of it


def two_passes(name, idea, module, before, kernels, regions=("state", "output"), rows=64):
    """A step whose two kernels are those of the module `kernels`."""
    return Step(
        name,
        idea,
        module.forward,
        before,
        tuple((module, region) for region in regions),
        (("state", kernels.state_kernel), ("output", kernels.output_kernel)),
        module.SETTINGS,
        rows,
    )


def settings(name, idea, module, before, rows):
    """A step that only sets the kernels of `reciprocal` differently."""
    return two_passes(name, idea, module, before, reciprocal, ("settings",), rows)


KERNEL = "kernel"
STEPS = (
    Step("python-loop", "a loop over tokens in Python", python_loop.forward, None,
         ((python_loop, KERNEL),)),
    Step("whole-tensors", "whole tensors, no loop", whole_tensors.forward, "python-loop",
         ((whole_tensors, KERNEL),)),
    Step("rows", "one program a head, row by row", rows.forward, "whole-tensors",
         ((rows, KERNEL),), ((KERNEL, rows.attention_kernel),)),
    Step("tiles", "64 rows at a time", tiles.forward, "rows",
         ((tiles, KERNEL),), ((KERNEL, tiles.attention_kernel),), rows=64),
    two_passes("split", "parts of the sequence", split, "tiles", split),
    two_passes("tensor-cores", "bfloat16 operands, tensor cores", tensor_cores, "split",
               tensor_cores),
    two_passes("fused", "φ and the normalizer inside", fused, "tensor-cores", fused),
    two_passes("masks", "masks on full tiles", masks, "fused", masks, rows=1),
    two_passes("transposed", "K transposed by its addresses", transposed, "fused", transposed,
               ("state",)),
    two_passes("packed", "φ two numbers at a time", packed, "transposed", packed),
    two_passes("columns", "sums as products of one column", columns, "packed", columns),
    two_passes("masks-again", "masks, with φ computed once", masks_again, "columns", masks_again,
               rows=1),
    two_passes("looped", "an output program takes a part", looped, "columns", looped,
               ("output",)),
    two_passes("reciprocal", "one division a row", reciprocal, "looped", reciprocal,
               ("output",)),
    settings("pipelined", "three stages", pipelined, "reciprocal", 64),
    settings("wide", "tiles of 128 rows", wide, "pipelined", 128),
    settings("wider", "tiles of 256 rows", wider, "wide", 256),
    settings("too-deep", "nine stages", too_deep, "wide", 128),
    settings("eight-warps", "eight warps", eight_warps, "wide", 128),
    settings("guessed-waves", "as many parts as should fit", guessed_waves, "wide", 128),
    settings("whole-waves", "as many parts as do fit", whole_waves, "guessed-waves", 128),
    Step("library", "any shape, stride and sequence", linear_attention, "whole-waves",
         ((bidirectional, "state-kernel"), (bidirectional, "output-kernel")),
         (("state", bidirectional.state_kernel), ("output", bidirectional.output_kernel))),
)  # fmt: skip


def named(name: str) -> Step:
    """The step of that name; ValueError says which there are."""
    known = {step.name: step for step in STEPS}
    if name not in known:
        raise ValueError(f"There is no step {name!r}; known: {', '.join(known)}.")
    return known[name]
