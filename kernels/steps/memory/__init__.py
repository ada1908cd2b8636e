"""Probes of a GPU's memory: kernels that do one thing to it, so that a clock shows what it costs.

Each file has one kernel and its launcher, and the chapter "The memory hierarchy of a GPU" says
what it is for. What a launcher returns says that the kernel did what it should: a sum, a copy, the
place where a walk ended. Sizes are to be multiples of the blocks; nothing is masked.

Triton compiles a kernel anew for an argument that is 1 or a multiple of 16. A number that is only
varied, and must not change the code, is named in `do_not_specialize`.
"""

from . import arguments, banks, chase, copy, in_flight, intensity, read, stride, transpose, waves

__all__ = [
    "arguments",
    "banks",
    "chase",
    "copy",
    "in_flight",
    "intensity",
    "read",
    "stride",
    "transpose",
    "waves",
]
