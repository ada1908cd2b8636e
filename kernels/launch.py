"""Launching a kernel, at less cost from the second time on.

Triton works out at each launch, argument by argument, which compiled form of a kernel it needs. For
short sequences that takes longer than the kernel. What it found is kept here under everything that
it depends on, and the compiled kernel is then called directly.
"""

from triton.runtime import JITFunction

_ready = {}  # what a launch depends on -> (the compiled kernel on its grid, its other arguments)
MOST = 4096  # things that are remembered; then all are forgotten


def launch(kernel, programs: int, tensors: tuple, strides: tuple = (), **named) -> None:
    """The same as `kernel[(programs,)](*tensors, *strides, **named)`.

    `tensors` may hold None. Triton compiles a form of its own for pointers that are not multiples
    of 16 bytes: these go the long way.
    """
    device = tensors[0].device
    if device.type != "cuda" or not isinstance(kernel, JITFunction):  # the interpreter's
        kernel[(programs,)](*tensors, *strides, **named)
        return
    kinds = []
    for x in tensors:
        if x is None:
            kinds.append(None)
        elif x.data_ptr() % 16:
            kernel[(programs,)](*tensors, *strides, **named)
            return
        else:
            kinds.append(x.dtype)
    key = (id(kernel), programs, device, *kinds, *strides, *named.values())
    if key not in _ready:
        compiled = kernel[(programs,)](*tensors, *strides, **named)
        others = kernel.arg_names[len(tensors) + len(strides) :]
        if len(_ready) >= MOST:
            _ready.clear()
        _ready[key] = compiled[(programs, 1, 1)], (*strides, *(named[n] for n in others))
        return
    run, rest = _ready[key]
    run(*tensors, *rest)
