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

    def add(access: Access) -> None:
        moved = found.setdefault(access.tensor, Moved())
        setattr(moved, access.kind, getattr(moved, access.kind) + access.size * access.places.size)

    with watched(add, lambda kernel, tensors: [found.setdefault(n, Moved()) for n in tensors]):
        call()
    if not found:
        raise BenchError("No kernel ran in Triton's interpreter: is TRITON_INTERPRET=1 set?")
    return found


@dataclass(frozen=True)
class Access:
    """What one program loads or stores at a time."""

    kind: str  # "loaded" or "stored"
    tensor: str  # the name of the kernel's argument, or ELSEWHERE
    places: np.ndarray  # in bytes from the tensor's first element; absolute if ELSEWHERE
    size: int  # bytes of an element
    program: tuple[int, int, int]


class _Watch:
    """Stands for the interpreter's memory: tells of each access, then does what was asked for."""

    def __init__(self, memory, builder, listener: Callable[[Access], None]):
        self._memory = memory
        self._builder = builder
        self._listener = listener
        self._ranges = []  # (name, first address, the address behind the last one)

    def __getattr__(self, name):
        return getattr(self._memory, name)

    def launched(self, tensors: dict) -> None:
        """From now on addresses belong to these tensors, name -> tensor."""
        self._ranges = [(name, *_extent(x)) for name, x in tensors.items()]

    def load(self, pointers, mask, other, dtype):
        self._tell(pointers, mask, np.dtype(dtype).itemsize, "loaded")
        return self._memory.load(pointers, mask, other, dtype)

    def store(self, pointers, values, mask):
        self._tell(pointers, mask, values.dtype.itemsize, "stored")
        return self._memory.store(pointers, values, mask)

    def atomic_rmw(self, operation, pointers, values, mask, semantics):
        for kind in ("loaded", "stored"):
            self._tell(pointers, mask, values.dtype.itemsize, kind)
        return self._memory.atomic_rmw(operation, pointers, values, mask, semantics)

    def atomic_cas(self, pointers, compared, values, semantics):
        mask = np.ones_like(pointers, dtype=bool)
        for kind in ("loaded", "stored"):
            self._tell(pointers, mask, values.dtype.itemsize, kind)
        return self._memory.atomic_cas(pointers, compared, values, semantics)

    def _tell(self, pointers, mask, size: int, kind: str) -> None:
        left = np.asarray(pointers)[np.asarray(mask, dtype=bool)].ravel()
        program = tuple(self._builder.grid_idx)
        for name, first, behind in self._ranges:
            here = (left >= first) & (left < behind)
            if here.any():
                self._listener(Access(kind, name, left[here] - first, size, program))
            left = left[~here]
        if left.size:
            self._listener(Access(kind, ELSEWHERE, left, size, program))


def _extent(x) -> tuple[int, int]:
    """First address of a tensor's elements, and the one behind the last of them."""
    if x.numel() == 0:
        return x.data_ptr(), x.data_ptr()
    last = sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
    return x.data_ptr(), x.data_ptr() + (last + 1) * x.element_size()


@contextmanager
def watched(
    listener: Callable[[Access], None], launched: Callable[[str, dict], object] = lambda *_: None
):
    """Within it `listener` hears of each access of a kernel in the interpreter.

    `launched(name, tensors)` hears of each launch before that, with the kernel's tensors by name.
    """
    from triton.runtime import interpreter

    watch = _Watch(interpreter._interpreter, interpreter.interpreter_builder, listener)
    executor = interpreter.GridExecutor
    prepare = executor._init_args_hst

    def prepared(self, args, kwargs):
        """The arguments as the kernel will see them, on the host."""
        args, kwargs = prepare(self, args, kwargs)
        values = dict(zip(self.arg_names, args, strict=False)) | kwargs
        tensors = {n: x for n, x in values.items() if hasattr(x, "data_ptr")}
        watch.launched(tensors)
        launched(self.fn.__name__, tensors)
        return args, kwargs

    interpreter._interpreter = watch
    executor._init_args_hst = prepared
    try:
        yield
    finally:
        interpreter._interpreter = watch._memory
        executor._init_args_hst = prepare
