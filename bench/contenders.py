"""Who takes part: one declaration each, and a name in a plan of the study `contenders`.

    register(Contender(name="mine", label="My kernel", function=LINEAR, forward=my_attention, ...))

`forward(q, k, v, causal=...)` takes and returns tensors [B, H, N, D], or [B, N, H, D] where
`layout` says so. What it needs beside that (a backend to be chosen, a library to be imported) is in
`context` and in `forward` itself, so that a missing library costs nothing here. What is made once,
outside the timed call, are the tensors in its layout, φ(q) and φ(k) where its function has no φ
(`Function.ready`), and what `prepare(q, k, v)` returns: further keyword arguments of `forward`.
`available` returns None, or why the contender cannot run.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
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
    install: str = "part of PyTorch"  # or commands of a shell that install it
    causal: tuple[bool, ...] = (False, True)  # the orders it has
    dtypes: tuple[str, ...] = ("float16", "bfloat16", "float32")
    layout: Literal["BHND", "BNHD"] = "BHND"  # what it takes and returns
    prepare: Callable[..., dict] = lambda q, k, v: {}
    longest: int | None = None  # above this N it is left out
    tunes: int | None = None  # it tries candidates at a first call; a length that reaches them all

    @property
    def outside(self) -> str:
        """What is made ready for it and not timed: "φ" of q and k, its "layout"; "" for nothing."""
        parts = ["φ"] * self.function.ready + ["layout"] * (self.layout != "BHND")
        return ", ".join(parts)

    def refusal(self, shape) -> str | None:
        """Why it cannot run on a shape, or None."""
        if shape.causal not in self.causal:
            return f"it has no {'causal' if shape.causal else 'bidirectional'} form"
        if shape.dtype not in self.dtypes:
            return f"it does not take {shape.dtype}"
        if self.longest is not None and shape.N > self.longest:
            return f"it is left out above {self.longest:,} tokens"
        return None

    def view(self, x):
        """A tensor [B, H, N, D] in its layout, copied; and one of its layout as [B, H, N, D]."""
        return x if self.layout == "BHND" else x.transpose(1, 2).contiguous()


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


def installed() -> list[str]:
    """Names of the contenders whose packages are there."""
    return [name for name in names() if get(name).available() is None]


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
        install="pip install -e .  # in a checkout of the book",
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
register(
    Contender(
        name="sdpa-efficient",
        label="SDPA efficient",
        function=SOFTMAX,
        forward=_sdpa,
        context=_backend("EFFICIENT_ATTENTION"),
        available=_has_backend("EFFICIENT_ATTENTION"),
        note="F.scaled_dot_product_attention, memory-efficient backend: softmax attention",
    )
)
register(
    Contender(
        name="sdpa-math",
        label="SDPA math",
        function=SOFTMAX,
        forward=_sdpa,
        context=_backend("MATH"),
        available=_has_backend("MATH"),
        note="F.scaled_dot_product_attention, PyTorch operations: softmax attention, N × N weights",
    )
)


def _compiled(q, k, v):
    """A fresh compilation for each shape: PyTorch gives up after a few of one function."""
    torch._dynamo.reset()
    return {"attend": torch.compile(eager.linear_attention, fullgraph=True, dynamic=False)}


def _call_compiled(q, k, v, *, causal, attend):
    return attend(q, k, v, causal=causal)


register(
    Contender(
        name="compiled",
        label="torch.compile, linear",
        function=LINEAR,
        forward=_call_compiled,
        prepare=_compiled,
        note="bench/eager.py under torch.compile, compiled for each shape",
    )
)


def _loop(q, k, v, *, causal):
    if not causal:  # the first step of chapter 7, which has no causal form
        from kernels.steps.journey import python_loop

        return python_loop.forward(q, k, v)
    from kernels.reference import recurrent

    return recurrent(q, k, v, causal=True)


register(
    Contender(
        name="loop",
        label="Python loop, linear",
        function=LINEAR,
        forward=_loop,
        note="one token after another: kernels/steps/journey/python_loop.py, the naive loop of "
        "chapter 7; causal kernels/reference.py, recurrent",
        available=_book_available,
        longest=1024,
    )
)

# ----- packages of others -----------------------------------------------------------------------


NO_PACKAGE = "there is no package"  # so begins the reason where one is not installed


def _package(*names, part=None):
    """`available` of a contender that needs importable packages, and a `part` of the first one.

    Nothing is imported here: that takes seconds, and may fail in ways of its own.
    """

    def available():
        for name in names:
            try:
                found = find_spec(name)
            except (ImportError, ValueError):
                found = None
            if found is None:
                return f"{NO_PACKAGE} `{name}` here"
        if part is not None:
            found = find_spec(names[0])
            places = [Path(place) for place in found.submodule_search_locations or ()]
            if not any((p / part).is_dir() or (p / f"{part}.py").is_file() for p in places):
                return f"the package `{names[0]}` here has no `{part}`"
        return None

    return available


READY = Function("linear", "identity", ready=True)
READY_SUM = Function("linear", "identity", normalize=False, ready=True)
FLA = {
    "available": _package("fla", "einops", part="ops"),
    "install": "pip install fla-core einops",
    "causal": (True,),
    "dtypes": ("float16", "bfloat16"),
    "layout": "BNHD",
    "tunes": 4096,
}


def _fla(name, normalize):
    """`forward` by one of the functions of fla.ops.linear_attn."""

    def forward(q, k, v, *, causal):
        import fla.ops.linear_attn as fla

        return getattr(fla, f"{name}_linear_attn")(q, k, v, normalize=normalize)[0]

    return forward


for _name, _words in (
    ("chunk", "chunk"),
    ("fused_chunk", "fused chunk"),
    ("fused_recurrent", "fused recurrent"),
):
    for _normalize in (False, True):
        _suffix = "-normalized" if _normalize else ""
        register(
            Contender(
                name=f"fla-{_words.replace(' ', '-')}{_suffix}",
                label=f"fla {_words}{', normalized' if _normalize else ''}",
                function=READY if _normalize else READY_SUM,
                forward=_fla(_name, _normalize),
                note=f"fla.ops.linear_attn.{_name}_linear_attn, normalize={_normalize}",
                **FLA,
            )
        )


def _open_gates(q, k, v):
    """Decays of 1, as logarithms [B, N, H]: with these the gated function is the plain one."""
    return {"g": torch.zeros(q.shape[:3], dtype=torch.float32, device=q.device)}


def _decayed(q, k, v, *, causal, decay):
    from kernels import linear_attention

    return linear_attention(q, k, v, causal=causal, decay=decay)


register(
    Contender(
        name="book-decay",
        label="This book, decays of 1",
        function=LINEAR,
        forward=_decayed,
        prepare=lambda q, k, v: {"decay": k.new_zeros(k.shape[:3], dtype=torch.float32)},
        note="kernels.linear_attention with a decay for each token and head, all 1: what they cost",
        available=_book_available,
        install="pip install -e .  # in a checkout of the book",
    )
)


def _simple_gla(q, k, v, *, causal, g):
    from fla.ops.simple_gla import chunk_simple_gla

    return chunk_simple_gla(q, k, v, g=g)[0]


register(
    Contender(
        name="fla-simple-gla",
        label="fla simple GLA, gates open",
        function=READY_SUM,
        forward=_simple_gla,
        prepare=_open_gates,
        note="fla.ops.simple_gla.chunk_simple_gla, every decay 1: what gates cost",
        **FLA,
    )
)

FLASH_BLA = {
    # its setup.py finds no package, so that pip would install nothing
    "install": "git clone https://github.com/fla-org/flash-bidirectional-linear-attention flash-bla"
    ' && export PYTHONPATH="$PWD/flash-bla"',
    "causal": (False,),
    "dtypes": ("float16", "bfloat16"),
    "tunes": 2**20,  # at each new length
}


def _flash_bla(q, k, v, *, causal):
    from flash_bla.ops.linear_attn.fused import linear_attention

    return linear_attention(q, k, v)


def _flash_bla_sum(q, k, v, *, causal):
    from flash_bla.ops.simple_la.fused import simple_la

    return simple_la(q, k, v)


register(
    Contender(
        name="flash-bla",
        label="flash_bla, normalized",
        function=READY,
        forward=_flash_bla,
        note="flash_bla.ops.linear_attn.fused: tunes itself for minutes at each new length",
        available=_package("flash_bla", part="ops"),
        **FLASH_BLA,
    )
)
register(
    Contender(
        name="flash-bla-simple",
        label="flash_bla",
        function=READY_SUM,
        forward=_flash_bla_sum,
        note="flash_bla.ops.simple_la.fused: tunes itself for minutes at each new length",
        available=_package("flash_bla", part="ops"),
        **FLASH_BLA,
    )
)


def _flash_attn(module):
    """`forward` by `flash_attn_func` of a module; some versions return the log-sum-exp too."""

    def forward(q, k, v, *, causal):
        from importlib import import_module

        out = import_module(module).flash_attn_func(q, k, v, causal=causal)
        return out[0] if isinstance(out, tuple) else out

    return forward


HOPPER = (
    "git clone https://github.com/Dao-AILab/flash-attention"
    " && pip install --no-build-isolation ./flash-attention/hopper"
)
BETA = "pip install --pre flash-attn-4"  # there are only betas of it
for _version, _module, _available, _install in (
    (
        2,
        "flash_attn",
        _package("flash_attn", part="flash_attn_interface"),
        "pip install --no-build-isolation flash-attn",
    ),
    (3, "flash_attn_interface", _package("flash_attn_interface"), HOPPER),
    (4, "flash_attn.cute", _package("flash_attn", part="cute"), BETA),
):
    register(
        Contender(
            name=f"flash-attn-{_version}",
            label=f"FlashAttention-{_version}",
            function=SOFTMAX,
            forward=_flash_attn(_module),
            note=f"{_module}.flash_attn_func: softmax attention",
            available=_available,
            install=_install,
            dtypes=("float16", "bfloat16"),
            layout="BNHD",
        )
    )
