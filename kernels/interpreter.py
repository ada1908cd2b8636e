"""Triton's interpreter, mended: before 3.7 for numpy 2.4 and later, and less to do at each call."""

import functools
import inspect

import triton
from triton.language.core import is_builtin
from triton.runtime import interpreter


def mend() -> None:
    """Mends what the installed Triton needs; does nothing a second time."""
    _bound_ranges()
    _look_once()


def _bound_ranges() -> None:
    """Lets a Triton number, which the interpreter keeps as an array of one, bound a `range`.

    Triton up to 3.6 converts that array with `int`, which numpy 2.4 refuses: every kernel with a
    loop then raises TypeError.
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


def _look_once() -> None:
    """Looks through the modules of `triton.language` once, not at each call of a function.

    While a kernel runs, the interpreter puts functions of its own in the place of the language's.
    It searches the language for them at every launch, and again wherever a kernel calls a jitted
    function, though all are replaced by then. Short kernels spend much of their time so.
    """
    patch = getattr(interpreter, "_patch_builtin", None)
    if patch is None or hasattr(patch, "__wrapped__"):
        return
    known = {}  # module or class -> {name: what the language has there}

    @functools.wraps(patch)
    def mended(package, builder, *scope):
        if package not in known:
            found = {n: m for n, m in inspect.getmembers(package) if is_builtin(m)}
            if not found:  # nothing to replace, or all of it is replaced already
                return
            known[package] = found
        first, original = next(iter(known[package].items()))
        if getattr(package, first) is original:  # either all of them are replaced, or none
            for name, member in known[package].items():
                interpreter._patch_attr(package, name, member, builder, *scope)

    interpreter._patch_builtin = mended
