"""Triton's interpreter before 3.7, mended for numpy 2.4 and later."""

import functools

import triton
from triton.runtime import interpreter


def mend() -> None:
    """Lets a Triton number, which the interpreter keeps as an array of one, bound a `range`.

    Triton up to 3.6 converts that array with `int`, which numpy 2.4 refuses: every kernel with a
    loop then raises TypeError. Does nothing for a Triton that knows better, or a second time.
    """
    version = tuple(int(x) for x in triton.__version__.split(".")[:2])
    patch = interpreter._patch_lang_tensor
    if version >= (3, 7) or hasattr(patch, "__wrapped__"):
        return

    @functools.wraps(patch)
    def mended(tensor, *scope):
        patch(tensor, *scope)  # which also notes what to put back
        tensor.__index__ = lambda self: int(self.handle.data.item())

    interpreter._patch_lang_tensor = mended
