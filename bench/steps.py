"""The chapters' small kernels as contenders, so that they pass the same gate and the same clock."""

from functools import partial

import torch

from kernels.steps import BLOCK_N, STEPS, Step

from . import compiled, contenders
from .runner import QUICK_LENGTHS, Plan
from .timing import QUICK
from .truth import Function

PREFIX = "step-"


def register() -> tuple[str, ...]:
    """Make every step a contender (bidirectional, forward only), and return their names."""
    for step in STEPS:
        if PREFIX + step.name not in contenders.names():
            contenders.register(_contender(step))
    return tuple(PREFIX + step.name for step in STEPS)


def plan(**changes) -> Plan:
    """All steps beside the library, bidirectional and forward; `changes` as in Plan."""
    fixed = {"orders": (False,), "works": ("forward",), "experiment": "steps"}
    return Plan(
        **{"contenders": ("book", *register()), "lengths": QUICK_LENGTHS, **fixed, **changes}
    )


def reduced(dtype: str) -> list[Plan]:
    """What a chapter measures: the library at every length, the steps at the longest alone."""
    *shorter, longest = QUICK_LENGTHS
    shared = {"dtype": dtype, "sampling": QUICK}
    return [
        plan(contenders=("book",), lengths=tuple(shorter), **shared),
        plan(lengths=(longest,), **shared),
    ]


def compile_all(dtype: str, device: str = "cuda") -> None:
    """Run every step once on little: the race compiles them one after another, this does not."""
    q, k, v = torch.randn(3, 1, 8, 1024, 64, device=device).to(getattr(torch, dtype))
    compiled.at_once([partial(step.forward, q, k, v) for step in STEPS])


def _contender(step: Step) -> contenders.Contender:
    def forward(q, k, v, *, causal):
        if step.whole_blocks and q.shape[2] % BLOCK_N:
            raise ValueError(f"it needs N a multiple of {BLOCK_N}, not {q.shape[2]}")
        return step.forward(q, k, v)

    return contenders.Contender(
        name=PREFIX + step.name,
        label=f"Step: {step.idea}",
        function=Function("linear", step.feature_map, step.normalize),
        forward=forward,
        note=f"kernels/steps, {step.name}: φ is {step.feature_map}",
        install="part of the book",
        causal=(False,),
        dtypes=("bfloat16", "float32"),
    )
