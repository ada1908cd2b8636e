"""The chapters' small kernels as contenders, so that they pass the same gate and the same clock."""

from kernels.steps import STEPS, Step

from . import contenders
from .truth import Function

PREFIX = "step-"


def register() -> tuple[str, ...]:
    """Make every step a contender (bidirectional, forward only), and return their names."""
    for step in STEPS:
        if PREFIX + step.name not in contenders.names():
            contenders.register(_contender(step))
    return tuple(PREFIX + step.name for step in STEPS)


def _contender(step: Step) -> contenders.Contender:
    def forward(q, k, v, *, causal):
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
