"""Who takes part: one declaration each, and nothing else to touch when another is added.

    register(Contender(name="mine", label="My kernel", function=LINEAR, forward=my_attention, ...))

`forward(q, k, v, causal=...)` takes and returns tensors [B, H, N, D]; what it needs beside that
(a backend to be chosen, a library to be imported) is in `context` and in `forward` itself, so that
a missing library costs nothing here. `available` returns None, or why the contender cannot run.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch.nn.functional as F

from . import eager
from .errors import BenchError
from .truth import LINEAR, SOFTMAX, Function


@dataclass(frozen=True)
class Contender:
    """One way to compute attention, and what it says of itself."""

    name: str  # as typed on the command line and kept in results
    label: str  # as shown in figures and tables
    function: Function  # what it computes: the gate's truth
    forward: Callable  # (q, k, v, causal=bool) -> o
    note: str  # one line: what is inside the timed call
    context: Callable = nullcontext  # entered around the call, not timed
    available: Callable[[], str | None] = lambda: None
    install: str = "part of PyTorch"
    causal: tuple[bool, ...] = (False, True)  # the orders it has
    dtypes: tuple[str, ...] = ("float16", "bfloat16", "float32")


_registry: dict[str, Contender] = {}


def register(contender: Contender) -> Contender:
    """Add a contender; its name must be new."""
    if contender.name in _registry:
        raise ValueError(f"a contender is already called {contender.name!r}")
    _registry[contender.name] = contender
    return contender


def names() -> list[str]:
    """Names of all contenders, in the order in which they are shown."""
    return list(_registry)


def get(name: str) -> Contender:
    """The contender of that name; BenchError if there is none."""
    if name not in _registry:
        raise BenchError(f"There is no contender {name!r}; there are {', '.join(_registry)}.")
    return _registry[name]


def label(name: str) -> str:
    """The label of a contender, also of one that only a results file still knows."""
    return _registry[name].label if name in _registry else name


def _book(q, k, v, *, causal):
    from kernels import linear_attention

    return linear_attention(q, k, v, causal=causal)


def _book_available():
    try:
        from kernels import linear_attention  # noqa: F401
    except ImportError as problem:
        return f"the book's package `kernels` cannot be imported: {problem}"
    return None


def _sdpa(q, k, v, *, causal):
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def _backend(name):
    """A context in which SDPA has this backend alone."""

    def context():
        from torch.nn.attention import SDPBackend, sdpa_kernel

        return sdpa_kernel(getattr(SDPBackend, name))

    return context


def _has_backend(name):
    def available():
        from torch.nn.attention import SDPBackend

        return None if hasattr(SDPBackend, name) else "this PyTorch has no such backend of SDPA"

    return available


register(
    Contender(
        name="book",
        label="This book (Triton)",
        function=LINEAR,
        forward=_book,
        note="kernels.linear_attention: φ = elu + 1 inside, normalized",
        available=_book_available,
        install="pip install -e . in a checkout of the book",
    )
)
register(
    Contender(
        name="eager",
        label="Eager PyTorch, linear",
        function=LINEAR,
        forward=eager.linear_attention,
        note="bench/eager.py: the same function in matrix products; causal in chunks of 64",
    )
)
register(
    Contender(
        name="sdpa-flash",
        label="SDPA flash",
        function=SOFTMAX,
        forward=_sdpa,
        context=_backend("FLASH_ATTENTION"),
        available=_has_backend("FLASH_ATTENTION"),
        note="F.scaled_dot_product_attention, FlashAttention backend: softmax attention",
        dtypes=("float16", "bfloat16"),
    )
)
register(
    Contender(
        name="sdpa-cudnn",
        label="SDPA cuDNN",
        function=SOFTMAX,
        forward=_sdpa,
        context=_backend("CUDNN_ATTENTION"),
        available=_has_backend("CUDNN_ATTENTION"),
        note="F.scaled_dot_product_attention, cuDNN backend: softmax attention",
        dtypes=("float16", "bfloat16"),
    )
)
