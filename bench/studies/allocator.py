"""What the allocator hands out and takes back during one call, event by event.

A row is one event of a call of `way` doing `work`: `bytes` handed out (or, below zero, taken back)
and `held_bytes` after it, the inputs included. They come from PyTorch's own memory snapshot, of a
call after another one like it. `where` is the line of Python that asked, as far as one did; a
backward pass asks from C++.
"""

from functools import partial

import torch

from .. import compiled, contenders, hardware, runner
from ..memory import inputs
from ..roofline import FORWARD, FORWARD_BACKWARD, Shape

ABOUT = "the allocator's events during a call: softmax and linear attention, forward and backward"
COLUMNS = "way causal work N dtype status reason | event bytes held_bytes where"

WAYS = ("sdpa-math", "sdpa-flash", "eager", "book")
# The first is what the page speaks of. At 1024 four tensors like q are as large as a square.
LENGTHS, QUICK_LENGTHS = (8192, 2048), (2048, 4096)
LEAST = 4096  # bytes; smaller tensors are left out
MOST_EVENTS = 400


def measure(quick: bool, say) -> list[dict]:
    """Rows for each way, order and work; one that fails has a row that says why."""
    rows = []
    dtype = str(hardware.default_dtype()).removeprefix("torch.")
    shapes = [
        Shape(1, 8, N, dtype=dtype, causal=causal)
        for N in (QUICK_LENGTHS if quick else LENGTHS)
        for causal in (False, True)
    ]
    if quick:
        compile_all(shapes)
    for way in WAYS:
        for shape in shapes:
            causal = shape.causal
            for work in (FORWARD, FORWARD_BACKWARD):
                about = {"way": way, "causal": causal, "work": work, "N": shape.N, "dtype": dtype}
                try:
                    events = of_contender(contenders.get(way), shape, work)
                    rows += [about | event for event in events]
                    say(f"{way} {shape} {work}: {len(events)} events")
                except Exception as problem:
                    rows.append(about | {"status": "failed", "reason": runner.one_line(problem)})
                    say(f"{way} {shape} {work}: {runner.one_line(problem)}")
    return rows


def compile_all(shapes, device: str = "cuda") -> None:
    """Call the library at every shape, several at a time: the rest takes less than compiling."""

    def call(shape, work):
        book = contenders.get("book")
        return runner.call_of(book, *inputs(book, shape, work, device), shape.causal)()

    works = FORWARD, FORWARD_BACKWARD
    compiled.at_once([partial(call, shape, work) for shape in shapes for work in works])


def of_contender(contender, shape: Shape, work: str, device: str = "cuda") -> list[dict]:
    """The events of one call on fresh inputs."""
    runner.free(device)
    call = runner.call_of(contender, *inputs(contender, shape, work, device), shape.causal)
    with contender.context():
        call()
        runner.synchronize(device)
        runner.free(device)
        before = torch.cuda.memory_allocated()
        return events(trace(call), before)


def trace(call) -> list[dict]:
    """The allocator's own record of a call: PyTorch's memory snapshot of the current device."""
    history = torch.cuda.memory._record_memory_history
    history(max_entries=100_000, context="alloc", stacks="python")
    try:
        result = call()
        torch.cuda.synchronize()
        found = torch.cuda.memory._snapshot()["device_traces"][torch.cuda.current_device()]
    finally:
        history(enabled=None)
    del result
    return found


def events(trace: list[dict], before: int) -> list[dict]:
    """Flat rows from a snapshot's trace, from `before` bytes on."""
    rows, held = [], before
    for entry in trace:
        sign = {"alloc": 1, "free_completed": -1}.get(entry["action"])
        if sign is None:
            continue
        held += sign * entry["size"]
        if entry["size"] >= LEAST:
            rows.append(
                {
                    "event": len(rows),
                    "bytes": sign * entry["size"],
                    "held_bytes": held,
                    "where": where(entry.get("frames", [])) if sign > 0 else "",
                    "status": "ok",
                    "reason": None,
                }
            )
    if not rows:
        raise RuntimeError("the snapshot has no events")
    if len(rows) > MOST_EVENTS:
        raise RuntimeError(f"{len(rows)} events are more than the {MOST_EVENTS} that are kept")
    start = {"event": -1, "bytes": 0, "held_bytes": before, "where": "", "status": "ok"}
    return [start | {"reason": None}, *rows]


def where(frames: list[dict]) -> str:
    """file.py:line function of the innermost frame."""
    for frame in frames:
        name = frame["filename"].rsplit("/", 1)[-1]
        if name.endswith(".py"):
            return f"{name}:{frame['line']} {frame['name']}"
    return ""
