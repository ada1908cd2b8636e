"""The mend for an older Triton's interpreter: done where it is needed, and once."""

import numpy as np
import pytest
import triton
from triton.runtime import interpreter

from kernels.interpreter import mend


class Number:
    """Stands for `tl.tensor`: what the interpreter patches."""

    def __init__(self, value):
        self.handle = self
        self.data = np.array([value])


def patch(tensor, *scope):
    """As in Triton 3.6; numpy before 2.4 let `int` take an array of one."""

    def index(self):
        if self.data.ndim:
            raise TypeError("only 0-dimensional arrays can be converted to Python scalars")
        return int(self.data)

    tensor.__index__ = index


@pytest.mark.parametrize("version, mended", [("3.5.1", True), ("3.6.0", True), ("3.7.0", False)])
def test_a_number_bounds_a_loop(version, mended, monkeypatch):
    monkeypatch.setattr(triton, "__version__", version)
    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch)
    mend()
    once = interpreter._patch_lang_tensor
    mend()
    assert interpreter._patch_lang_tensor is once
    once(Number, None)
    if mended:
        assert list(range(Number(3))) == [0, 1, 2]
    else:
        with pytest.raises(TypeError):
            range(Number(3))
