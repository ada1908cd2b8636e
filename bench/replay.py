"""A kernel replayed: which program loads and stores which bytes at which step.

    replay = record(lambda: split.forward(q, k, v, parts=2))

The real kernel runs in Triton's interpreter, and every access is written down (`bench.traffic`). A
GPU runs the programs of a launch side by side; so the first accesses of all of them are one step,
the second ones the next step, and so on. That is a picture, not a clock: on a GPU some programs are
ahead of others.

Memory comes in sectors of 32 bytes, and is drawn so: an access of one byte fetches its sector.
"""

import os
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

from . import fresh
from .errors import BenchError
from .traffic import ELSEWHERE, Access, watched

SECTOR = 32  # bytes


@dataclass(frozen=True)
class Event:
    """One access: `runs` are (first sector, sectors) of the tensor, `asked` its bytes."""

    step: int
    program: int
    kind: str  # "loaded" or "stored"
    tensor: str
    runs: list[tuple[int, int]]
    asked: int


@dataclass(frozen=True)
class Replay:
    """Accesses in order of their steps, and how the tensors lie in memory."""

    tensors: dict[str, tuple[int, int]]  # name -> (rows, sectors of a row)
    steps: list[str]  # the kernel that each step belongs to
    events: list[Event]

    def fetched(self, tensor: str, kind: str = "loaded") -> list[int]:
        """How often each sector of a tensor was loaded, or stored."""
        rows, width = self.tensors[tensor]
        counts = [0] * (rows * width)
        for event in self.events:
            if (event.tensor, event.kind) == (tensor, kind):
                for first, length in event.runs:
                    for sector in range(first, first + length):
                        counts[sector] += 1
        return counts

    def use(self, tensor: str) -> float:
        """Bytes asked for over bytes fetched, of all loads of a tensor; 1 is the best."""
        mine = [e for e in self.events if (e.tensor, e.kind) == (tensor, "loaded")]
        sectors = sum(length for e in mine for _, length in e.runs)
        return sum(e.asked for e in mine) / (SECTOR * sectors) if sectors else 1.0


def record(call: Callable[[], object]) -> Replay:
    """What the kernels do that `call()` launches on small tensors of the CPU.

    A tensor that two launches share, under whatever names, is one tensor, under its first name.
    Raises BenchError where no kernel ran in the interpreter, or one reached beside its tensors.
    """
    tensors, names, kernels, events, steps = {}, {}, [], [], []
    here = {}  # argument of the kernel that runs -> the tensor's name
    turns = {}  # program -> its accesses in this launch
    alive = []  # so that no address is given to another tensor
    begin = 0

    def launched(kernel, arguments):
        nonlocal begin
        begin, kernels[len(kernels) :] = len(steps), [kernel]
        turns.clear()
        here.clear()
        alive.extend(arguments.values())
        for name, x in arguments.items():
            if x.numel() == 0:
                continue
            known = names.setdefault(x.data_ptr(), _free(name, tensors))
            here[name] = known
            tensors.setdefault(known, _layout(x))

    def accessed(access: Access):
        if access.tensor == ELSEWHERE:
            raise BenchError("A kernel reached beside its tensors; that is not to be replayed.")
        turn = turns.get(access.program, 0)
        turns[access.program] = turn + 1
        if begin + turn == len(steps):
            steps.append(kernels[-1])
        program = access.program[0] + 1000 * access.program[1] + 10**6 * access.program[2]
        runs = _runs(sorted({int(p) // SECTOR for p in access.places}))
        asked = access.size * access.places.size
        events.append(Event(begin + turn, program, access.kind, here[access.tensor], runs, asked))

    with watched(accessed, launched):
        call()
    if not events:
        raise BenchError("No kernel ran in Triton's interpreter: is TRITON_INTERPRET=1 set?")
    numbers = {p: i for i, p in enumerate(sorted({e.program for e in events}))}
    events = [Event(**{**asdict(e), "program": numbers[e.program]}) for e in events]
    return Replay(tensors, steps, sorted(events, key=lambda e: (e.step, e.program)))


def _free(name: str, taken: dict) -> str:
    """The name, or the first of name 2, name 3 … that no other tensor has."""
    found, i = name, 1
    while found in taken:
        i += 1
        found = f"{name} {i}"
    return found


def _layout(x: torch.Tensor) -> tuple[int, int]:
    """(rows, sectors of a row) of a tensor as it lies in memory, its gaps included."""
    last = sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
    nbytes = (last + 1) * x.element_size()
    row = max(x.stride()[-2:]) * x.element_size() if x.dim() > 1 else nbytes
    if row < SECTOR or row % SECTOR:  # rows that share sectors are drawn as one
        row = SECTOR * max(1, -(-nbytes // SECTOR))
    return -(-nbytes // row), row // SECTOR


def _runs(sectors: list[int]) -> list[tuple[int, int]]:
    """Sorted numbers as (first, how many follow one another)."""
    runs = []
    for sector in sectors:
        if runs and sum(runs[-1]) == sector:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((sector, 1))
    return runs


# What the page shows: name -> a call of real kernels on small tensors.
def _tensor(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator)


def matmul(group: int) -> None:
    """A matrix product of nine tiles: chapter 5."""
    from kernels.steps.basics import matmul

    matmul.matmul(_tensor(96, 96), _tensor(96, 96), tile=(32, 32, 32), group=group)


def state_pass(parts: int, step: int = 1) -> None:
    """The state pass of chapter 6; `step` > 1 takes every so many column of a wider k."""
    from kernels.steps import split

    k, v = _tensor(1, 1, 256, 16 * step)[..., ::step], _tensor(1, 1, 256, 16)
    split.combine(split.partial_states(k, v, parts))


def causal(segments: int) -> None:
    """Causal linear attention in segments: chapter 8."""
    from kernels.steps.causal import segmented

    q, k, v = (_tensor(1, 1, 256, 16) for _ in "qkv")
    segmented.forward(q, k, v, segments=segments)


CALLS = {
    "matmul": lambda: matmul(group=8),
    "state, one program": lambda: state_pass(parts=1),
    "state, two parts": lambda: state_pass(parts=2),
    "state, every fourth column": lambda: state_pass(parts=2, step=4),
    "causal, four segments": lambda: causal(segments=4),
}


def recorded(*names: str) -> dict[str, Replay]:
    """Replays of `CALLS`, recorded in a process of its own: a GPU need not be hidden from it."""
    found = fresh.call(
        "bench.replay", "as_json", {"names": names}, TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES=""
    )
    if "failed" in found:
        raise BenchError(f"{', '.join(names)} could not be recorded: {found['failed']}.")
    return {name: _read(found[name]) for name in names}


def _read(data: dict) -> Replay:
    tensors = {n: tuple(size) for n, size in data["tensors"].items()}
    events = [Event(**{**e, "runs": [tuple(r) for r in e["runs"]]}) for e in data["events"]]
    return Replay(tensors, data["steps"], events)


def as_json(names: list[str]) -> dict:
    """Replays as plain data; for `recorded`."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise BenchError("TRITON_INTERPRET has to be 1.")
    return {name: asdict(record(CALLS[name])) for name in names}
