"""What is mended in Triton's interpreter: where it is needed, once, and with the same results."""

import inspect
import types

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter

from kernels import INTERPRETED, linear_attention
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


@pytest.mark.skipif(not INTERPRETED, reason="the interpreter does not run where there is a GPU")
def test_the_language_is_searched_once_and_put_back(monkeypatch):
    searched = []
    members = inspect.getmembers

    def counted(package, *rest):
        searched.append(package)
        return members(package, *rest)

    x = torch.linspace(-1, 1, 2 * 40 * 16).reshape(1, 2, 40, 16)
    once = linear_attention(x, x, x)
    before = {n: m for n, m in members(tl) if tl.core.is_builtin(m)}
    monkeypatch.setattr(inspect, "getmembers", counted)
    again = linear_attention(x, x, x)
    assert torch.equal(once, again)
    assert not {tl, tl.core, tl.tensor, tl.math} & set(searched)
    assert {n: m for n, m in members(tl) if tl.core.is_builtin(m)} == before


class Scope:
    """As Triton's: sets attributes, and notes what was there."""

    def __init__(self):
        self.changes = []

    def set_attr(self, owner, name, value):
        self.changes.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    def restore(self):
        while self.changes:
            setattr(*self.changes.pop())


@pytest.fixture
def one():
    """A function of a language, which knows whether the interpreter calls it."""

    def called(_semantic=None):
        return "by the interpreter" if _semantic else "by the compiler"

    called.__triton_builtin__ = True
    return called


@pytest.fixture
def replace(monkeypatch):
    """The interpreter's way to replace functions, mended anew."""
    before = interpreter._patch_builtin
    monkeypatch.setattr(interpreter, "_patch_builtin", getattr(before, "__wrapped__", before))
    mend()
    return lambda language, scope: interpreter._patch_builtin(language, None, scope)


def test_functions_are_replaced_until_the_kernel_has_ended(one, replace):
    language = types.ModuleType("language")
    language.one, language.other = one, len
    for _ in range(2):
        outer, inner = Scope(), Scope()
        replace(language, outer)
        assert language.one() == "by the interpreter" and language.other is len
        replace(language, inner)  # a function that the kernel calls
        assert not inner.changes
        outer.restore()
        assert language.one is one


def test_a_module_met_while_its_functions_are_replaced_is_met_again(one, replace):
    language, scope = types.ModuleType("language"), Scope()
    language.one = len
    replace(language, scope)
    assert not scope.changes
    language.one = one
    replace(language, scope)
    assert language.one() == "by the interpreter"
