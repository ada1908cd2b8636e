"""Bytes held and moved by PyTorch code, counted without memory: run it on the device `meta`.

    q, k, v = (torch.empty(1, 8, 2**20, 64, device="meta") for _ in range(3))
    with Ledger(q, k, v) as ledger:
        o = attention(q, k, v)
    ledger.peak, ledger.moved, ledger.table()

Every operation of PyTorch is one entry: what it reads, what it writes, what is held at that moment
and its FLOPs. Read and written is what a kernel has to move that keeps nothing from the one before
it. Views move nothing. The backward pass is seen too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from . import tables


@dataclass(frozen=True)
class Entry:
    """One operation: bytes read, written, and held while it runs, inputs and outputs included."""

    name: str
    read: int
    written: int
    held: int
    flops: int

    @property
    def moved(self) -> int:
        """Bytes that cross the memory bus."""
        return self.read + self.written


class Ledger(TorchDispatchMode):
    """Keeps an entry for each operation within its context; `tensors` are held from the start."""

    def __init__(self, *tensors: torch.Tensor):
        super().__init__()
        self.entries: list[Entry] = []
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self._hold(tensors)
        self.before = self.held

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        inputs, outputs = _tensors((args, kwargs)), _tensors(result)
        self._hold([*inputs, *outputs])
        if func._schema.is_mutable:
            written = [x for x in outputs if _storage(x) in map(_storage, inputs)]
        else:
            there = {_storage(x) for x in inputs}
            written = [x for x in outputs if _storage(x) not in there]
        if written:
            count = flop_registry.get(func._overloadpacket)
            flops = count(*args, **kwargs, out_val=result) if count else 0
            name = func._overloadpacket.__name__.strip("_")
            read = sum(_bytes(x) for x in {_storage(x): x for x in inputs}.values())
            entry = Entry(name, read, sum(map(_bytes, written)), self.held, flops)
            self.entries.append(entry)
        return result

    @property
    def held(self) -> int:
        """Bytes that are held now."""
        gone = [key for key, (storage, _) in self._storages.items() if storage.expired()]
        for key in gone:
            del self._storages[key]
        return sum(nbytes for _, nbytes in self._storages.values())

    @property
    def peak(self) -> int:
        """The most bytes that were held at any moment."""
        return max((entry.held for entry in self.entries), default=self.before)

    @property
    def moved(self) -> int:
        """Bytes read and written by all operations."""
        return sum(entry.moved for entry in self.entries)

    @property
    def flops(self) -> int:
        """FLOPs of all matrix products."""
        return sum(entry.flops for entry in self.entries)

    def table(self, unit: int, name: str, caption: str = "") -> tables.Table:
        """All entries; bytes are shown in units of `unit` bytes, called `name`."""

        def cell(nbytes):
            return f"{nbytes / unit:.2f}"

        rows = [[e.name, cell(e.read), cell(e.written), cell(e.held)] for e in self.entries]
        sums = [cell(sum(getattr(e, n) for e in self.entries)) for n in ("read", "written")]
        rows.append(["all", *sums, f"peak {cell(self.peak)}"])
        columns = ["operation", f"reads [{name}]", f"writes [{name}]", f"held [{name}]"]
        return tables.Table(columns, rows, caption)

    def _hold(self, tensors) -> None:
        for x in tensors:
            storage = x.untyped_storage()
            if x.dim() and storage._cdata not in self._storages:
                self._storages[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())


def _tensors(tree) -> list[torch.Tensor]:
    """All tensors but single numbers."""
    return [x for x in tree_leaves(tree) if isinstance(x, torch.Tensor) and x.dim()]


def _storage(x: torch.Tensor) -> int:
    return x.untyped_storage()._cdata


def _bytes(x: torch.Tensor) -> int:
    """Bytes of a tensor; one that was expanded lies in memory once."""
    return min(x.nbytes, x.untyped_storage().nbytes())
