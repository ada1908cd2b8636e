"""Linear attention in Triton: complete causal and bidirectional kernels, forward and backward."""

from .arguments import LinearAttentionState
from .ops import linear_attention, linear_attention_step

__all__ = ["LinearAttentionState", "linear_attention", "linear_attention_step"]
