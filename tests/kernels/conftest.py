"""Fixtures of the operator's tests: who is tested, and poisoned memory."""

import contextlib
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from oracle import ON_GPU, SUBJECTS  # noqa: E402
from torch.utils._python_dispatch import _disable_current_modes  # noqa: E402

from kernels import configs, launch  # noqa: E402


def implementations(choose):
    return pytest.fixture(params=[s for s in SUBJECTS if choose(s)], ids=str)


def distinct(subject):
    """The interpreter computes bfloat16 as float32: there, few tests need both."""
    return ON_GPU or subject.dtype != torch.bfloat16


@implementations(lambda s: True)
def every(request):
    """Each implementation in each dtype: the operator in three, the references in float64."""
    return request.param


@implementations(distinct)
def subject(request):
    """The same, in the dtypes that differ where the tests run."""
    return request.param


@implementations(lambda s: s.dtype in (torch.float32, torch.float64))
def precise(request):
    """Without the half precisions, for cases in which rounding plays no part."""
    return request.param


@implementations(lambda s: s.name == "operator" and distinct(s))
def operator(request):
    """The operator alone."""
    return request.param


@pytest.fixture(autouse=True)
def poison(monkeypatch):
    """Fresh memory is full of NaN, so that an element no kernel wrote cannot pass for a result."""

    def unseen():
        """A recording does not see the poison, and so does not pour it again."""
        recording = getattr(launch._here, "recording", None)
        return _disable_current_modes() if recording else contextlib.nullcontext()

    def poisoned(function):
        def wrapper(*args, **kwargs):
            x = function(*args, **kwargs)
            if kwargs.get("out") is None and x.device.type != "meta":
                with torch.no_grad(), unseen():
                    x.detach().fill_(float("nan") if x.is_floating_point() else 77)
            return x

        return wrapper

    for name in ("empty", "empty_like", "empty_strided"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))
    for name in ("new_empty", "new_empty_strided"):
        monkeypatch.setattr(torch.Tensor, name, poisoned(getattr(torch.Tensor, name)))
    allocator = launch.allocator
    monkeypatch.setattr(launch, "allocator", lambda device: poisoned(allocator(device)))


@pytest.fixture(autouse=True)
def few_short_sequences(monkeypatch):
    """Sequences of a few dozen tokens already take the way of long ones, which then is tested too.

    What a short sequence does by default is tested in test_ways.py.
    """
    monkeypatch.setattr(configs, "SHORT", 40)
    monkeypatch.setattr(configs, "SHARED", 44)
    launch.forget()
