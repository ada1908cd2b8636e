"""Bytes that Triton kernels load and store, counted while they run in the interpreter.

    found = traffic(lambda: state_pass.state(k, v))
    found["k"].loaded, found["s"].stored        # bytes, by the name of the kernel's argument

What is counted is what the programs ask for: an element that two programs load counts twice, and
one that a mask leaves out counts not at all. On a GPU some of it would come from a cache.
"""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from .errors import BenchError

ELSEWHERE = "elsewhere"  # an address that lies in none of the kernel's tensors


@dataclass
class Moved:
    """Bytes of one tensor."""

    loaded: int = 0
    stored: int = 0


class Traffic(dict):
    """Name of a kernel's argument -> Moved, over all launches; ELSEWHERE only where it happened."""

    @property
    def loaded(self) -> int:
        return sum(moved.loaded for moved in self.values())

    @property
    def stored(self) -> int:
        return sum(moved.stored for moved in self.values())

    @property
    def total(self) -> int:
        return self.loaded + self.stored


def traffic(call: Callable[[], object]) -> Traffic:
    """What the kernels load and store that `call()` launches.

    An atomic update counts as a load and a store. Raises BenchError where the kernels were not
    launched in Triton's interpreter: it needs TRITON_INTERPRET=1 before `import triton`.
    """
    found = Traffic()
    with _counting(found):
        call()
    if not found:
        raise BenchError("No kernel ran in Triton's interpreter: is TRITON_INTERPRET=1 set?")
    return found


class _Counter:
    """Stands for the interpreter's memory: counts, then does what was asked for."""

    def __init__(self, memory, found: Traffic):
        self._memory = memory
        self._found = found
        self._ranges = []  # (name, first address, the address behind the last one)

    def __getattr__(self, name):
        return getattr(self._memory, name)

    def launched(self, tensors: dict) -> None:
        """From now on addresses belong to these tensors, name -> tensor."""
        self._ranges = [(name, *_extent(x)) for name, x in tensors.items()]
        for name in tensors:
            self._found.setdefault(name, Moved())

    def load(self, pointers, mask, other, dtype):
        self._count(pointers, mask, np.dtype(dtype).itemsize, "loaded")
        return self._memory.load(pointers, mask, other, dtype)

    def store(self, pointers, values, mask):
        self._count(pointers, mask, values.dtype.itemsize, "stored")
        return self._memory.store(pointers, values, mask)

    def atomic_rmw(self, operation, pointers, values, mask, semantics):
        for kind in ("loaded", "stored"):
            self._count(pointers, mask, values.dtype.itemsize, kind)
        return self._memory.atomic_rmw(operation, pointers, values, mask, semantics)

    def atomic_cas(self, pointers, compared, values, semantics):
        mask = np.ones_like(pointers, dtype=bool)
        for kind in ("loaded", "stored"):
            self._count(pointers, mask, values.dtype.itemsize, kind)
        return self._memory.atomic_cas(pointers, compared, values, semantics)

    def _count(self, pointers, mask, size: int, kind: str) -> None:
        left = np.asarray(pointers)[np.asarray(mask, dtype=bool)].ravel()
        for name, first, behind in self._ranges:
            here = (left >= first) & (left < behind)
            self._add(name, kind, size * int(here.sum()))
            left = left[~here]
        if left.size:
            self._add(ELSEWHERE, kind, size * left.size)

    def _add(self, name: str, kind: str, nbytes: int) -> None:
        moved = self._found.setdefault(name, Moved())
        setattr(moved, kind, getattr(moved, kind) + nbytes)


def _extent(x) -> tuple[int, int]:
    """First address of a tensor's elements, and the one behind the last of them."""
    if x.numel() == 0:
        return x.data_ptr(), x.data_ptr()
    last = sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()


@contextmanager
def _counting(found: Traffic):
    """Within it the interpreter's loads and stores are counted."""
    from triton.runtime import interpreter

    counter = _Counter(interpreter._interpreter, found)
    executor = interpreter.GridExecutor
    prepare = executor._init_args_hst

    def prepared(self, args, kwargs):
        """The arguments as the kernel will see them, on the host."""
        args, kwargs = prepare(self, args, kwargs)
        values = dict(zip(self.arg_names, args, strict=False)) | kwargs
        counter.launched({n: x for n, x in values.items() if hasattr(x, "data_ptr")})
        return args, kwargs

    interpreter._interpreter = counter
    executor._init_args_hst = prepared
    try:
        yield
    finally:
        interpreter._interpreter = counter._memory
        executor._init_args_hst = prepare
