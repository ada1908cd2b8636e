"""Linear attention in Triton: complete causal and bidirectional kernels, forward and backward."""

from .arguments import LinearAttentionState
from .ops import INTERPRETED, linear_attention, linear_attention_step
from .sequence_parallel import sequence_parallel_attention

if INTERPRETED:
    from .interpreter import mend

    mend()

__all__ = [
    "LinearAttentionState",
    "linear_attention",
    "linear_attention_step",
    "sequence_parallel_attention",
]
