"""Tuning: every candidate of a kernel's tile, verified and timed, and the table that comes of it.

The operator tunes nothing while it runs. This regenerates the table in kernels/configs.py that it
reads its tiles from: each candidate is put into the table, the operator's result is compared with
float64, and the profiler gives the time of that kernel alone. Its floor is a copy of as many bytes
as that kernel has to move. The table is read on GPUs of sm_90 only, so others are refused.
"""

import functools
import itertools
import sys
from dataclasses import replace

import torch

from . import contenders, fresh, gate, profiling, runner, style
from .errors import BenchError
from .floor import copy_call
from .roofline import FORWARD, FORWARD_BACKWARD, ITEM_BYTES, Shape
from .tables import Table
from .timing import QUICK, DeviceClock, Lane, race

ROWS, VALUES, RESIDENT, WARPS, STAGES = (32, 64, 128), (64, 128), (1, 2, 4), (4, 8), (1, 2, 3)
SHAPES = {64: Shape(8, 8, 65536), 128: Shape(4, 16, 16384, 128, 128)}
FEW = 32  # heads, with which no other algorithm takes the place of the causal kernels
SHORT = {64: 1024, 128: 512}  # tokens, for which one launch does everything
CANDIDATE_S = 15  # how long one may take, on average, to be compiled, verified and timed
# Tensors of the size of q that a kernel has to read or write.
TENSORS = {
    "short_kernel": 4,  # q, k, v and o
    "state_kernel": 2,  # k and v
    "output_kernel": 2,  # q and o
    "backward_query_kernel": 3,  # q, do and dq
    "backward_key_kernel": 4,  # k, v, dk and dv
    "causal_output_kernel": 4,  # q, k, v and o
    "causal_backward_query_kernel": 5,  # q, k, v, do and dq
    "causal_backward_key_kernel": 6,  # q, k, v, do, dk and dv
    "decay_state_kernel": 2,
    "decay_output_kernel": 4,
    "decay_backward_query_kernel": 6,  # and o
    "decay_backward_key_kernel": 6,
    "chained_kernel": 4,
}
FIELDS = ("rows", "values", "resident", "num_warps", "num_stages")
CHAIN = ("chained_kernel", 64)  # it has a shape of its own, configs.CHAINED
CHAIN_FIELDS = ("segment", "rows")
CHAIN_TILES = [(segment, rows) for segment in (128, 256, 512) for rows in (32, 64, 128)]


def kernels() -> list[tuple[str, int]]:
    """What kernels/configs.py has shapes of: (kernel, features)."""
    from kernels import configs

    return [*configs.HOPPER, CHAIN]


def fields(kernel: str) -> tuple[str, ...]:
    """The names of what is chosen for a kernel."""
    return CHAIN_FIELDS if kernel == CHAIN[0] else FIELDS


def candidates(kernel: str, features: int, quick: bool = False) -> list[tuple]:
    """What to try for a kernel and heads of `features`, in the order of `fields`."""
    if kernel == CHAIN[0]:
        return CHAIN_TILES
    values = [v for v in VALUES if v <= features]
    if quick:
        return list(itertools.product(ROWS, values[-1:], RESIDENT[1:2], WARPS, STAGES[1:]))
    return list(itertools.product(ROWS, values, RESIDENT, WARPS, STAGES))


def contender_of(kernel: str) -> str:
    """The contender whose call launches a kernel of that name."""
    return "book-decay" if kernel.startswith("decay_") else "book"


def work_of(kernel: str) -> tuple[bool, str]:
    """(causal, work) of a call that launches a kernel of that name."""
    causal = kernel.startswith(("causal_", "decay_", "chained_"))
    return causal, FORWARD_BACKWARD if "backward" in kernel else FORWARD


def shape_of(kernel: str, features: int) -> Shape:
    """A shape at which the operator launches that kernel."""
    causal, _ = work_of(kernel)
    shape = replace(SHAPES[features], causal=causal)
    if kernel == "short_kernel":
        shape = replace(shape, N=SHORT[features])
    if causal and (kernel, features) != CHAIN:
        shape = replace(shape, B=max(1, FEW // shape.H))
    return shape


def bytes_of(kernel: str, shape: Shape) -> int:
    """What a kernel has to move, in bytes; D and Dv are the same."""
    each = shape.B * shape.H * shape.N * shape.D * ITEM_BYTES[shape.dtype]
    return TENSORS[kernel] * each


def check_gpu() -> None:
    """BenchError unless the operator reads the table on this GPU."""
    arch = "".join(map(str, torch.cuda.get_device_capability()))
    if arch != "90":
        raise BenchError(
            f"The operator reads the table of tiles on GPUs of sm_90 alone, such as an H100, and "
            f"{torch.cuda.get_device_name()} is of sm_{arch}: its tiles follow a rule, `tile` in "
            "kernels/configs.py."
        )


def tune(names: list[tuple[str, int]], quick: bool, say) -> list[dict]:
    """A row for each candidate of each kernel; one that kills its process is a row too.

    `say` is told of each as it comes. BenchError on a GPU that the table is not for.
    """
    check_gpu()
    rows = []

    def tell(row):
        if "failed" not in row:  # that is why a process ended, which is said below
            say(f"    {_choice(row)}: {_outcome(row)}")

    for kernel, features in names:
        left = candidates(kernel, features, quick)
        say(f"{kernel}, D = {features}: {len(left)} candidates")
        while left:
            options = {"kernel": kernel, "features": features, "tiles": left}
            limit_s = 60 + CANDIDATE_S * len(left)
            found, failure = fresh.stream("bench.tuning", "try_all", options, limit_s, tell)
            rows += found
            left = left[len(found) :]
            if failure is not None and left:
                rows.append(_row(kernel, features, left[0]) | _failed(failure))
                tell(rows[-1])
                left = left[1:]
    return rows


def _row(kernel: str, features: int, tile) -> dict:
    return {"kernel": kernel, "features": features, **dict(zip(fields(kernel), tile, strict=True))}


def _failed(reason: str) -> dict:
    times = dict.fromkeys(("kernel_ms", "floor_ms", "call_ms"))
    return {"status": "failed", "reason": reason[:240], **times}


def _choice(row: dict) -> str:
    """What a row tried: "rows 64, values 64, resident 2, warps 4, stages 3"."""
    return ", ".join(f"{f.removeprefix('num_')} {row[f]}" for f in fields(row["kernel"]))


def _outcome(row: dict) -> str:
    return f"{row['kernel_ms']:.4g} ms" if row["status"] == "ok" else row["reason"]


def try_all(kernel: str, features: int, tiles: list):
    """Yields a row for each tile. For a fresh process: a bad tile may spoil it."""
    _, work = work_of(kernel)
    shape = shape_of(kernel, features)
    book = contenders.get(contender_of(kernel))
    inputs = runner.Inputs(shape, work == FORWARD_BACKWARD)
    truth = inputs.truth(book.function)
    clock = DeviceClock()
    copy = Lane(copy_call(bytes_of(kernel, shape)))
    race([copy], clock, QUICK)
    for tile in tiles:
        put(kernel, features, tile)
        row = _row(kernel, features, tile)
        try:
            call, named = runner.prepare(book, inputs, work)
            verdict = gate.judge(named(call()), truth, shape.dtype)
            if not verdict.ok:
                yield row | _failed(verdict.reason) | {"status": "wrong"}
                continue
            lane = Lane(call)
            race([lane], clock, QUICK)
            if lane.failure is not None:
                raise lane.failure
            times = {r["kernel"]: r["ms"] for r in profiling.kernel_times(call, 5)}
        except Exception as problem:
            if clock.lost():
                raise
            yield row | _failed(runner.one_line(problem))
            continue
        if kernel not in times:
            yield row | _failed(f"a call of {shape} launches {', '.join(times)}, and not it")
            continue
        floor = None if copy.failure else copy.percentile(50)
        times = {"kernel_ms": times[kernel], "floor_ms": floor, "call_ms": lane.percentile(50)}
        yield row | {"status": "ok", "reason": None, **times}


def put(kernel: str, features: int, tile) -> None:
    """Makes the operator use that tile in this process."""
    from kernels import configs

    if (kernel, features) == CHAIN:
        configs.CHAINED = configs.CHAINED._replace(**dict(zip(CHAIN_FIELDS, tile, strict=True)))
    else:
        configs.HOPPER[kernel, features] = tuple(tile)
    forget()


def forget() -> None:
    """Empty every cache of `kernels` that may hold an older tile."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "kernels":
            for thing in list(vars(module).values()):
                if isinstance(thing, functools._lru_cache_wrapper):
                    thing.cache_clear()
    from kernels import launch

    launch.forget()


def best(rows: list[dict]) -> dict[tuple[str, int], dict]:
    """The fastest verified candidate of each kernel, by the time of the kernel alone."""
    found: dict[tuple[str, int], dict] = {}
    for row in rows:
        if row["status"] != "ok":
            continue
        key = row["kernel"], row["features"]
        if key not in found or row["kernel_ms"] < found[key]["kernel_ms"]:
            found[key] = row
    return found


def table(rows: list[dict], line: str, most: int = 5) -> Table:
    """The fastest candidates of each kernel, then how many were refused."""
    cells = []
    for key in dict.fromkeys((r["kernel"], r["features"]) for r in rows):
        mine = [r for r in rows if (r["kernel"], r["features"]) == key]
        good = sorted((r for r in mine if r["status"] == "ok"), key=lambda r: r["kernel_ms"])
        for r in good[:most]:
            times = (r["kernel_ms"], r["floor_ms"], r["call_ms"])
            times = ["–" if ms is None else style.number(ms) for ms in times]
            cells.append([key[0], str(key[1]), _choice(r), *times])
        refused = [r["reason"] for r in mine if r["status"] != "ok"]
        if refused:
            cells.append([key[0], str(key[1]), f"{len(refused)} refused: {refused[0]}", *"–––"])
    columns = ["kernel", "D", "shape", "kernel [ms]", "floor [ms]", "call [ms]"]
    return Table(columns, cells, f"{line}.", words=("shape",))


def lines(rows: list[dict]) -> str:
    """The tables of kernels/configs.py as they should read, those that a row is of.

    What was not tried stays as it is. So does a kernel of which no candidate was verified, which
    is said behind it.
    """
    from kernels import configs

    tried = {(r["kernel"], r["features"]) for r in rows}
    chosen = best(rows)
    text = []
    if tried - {CHAIN}:
        text.append("HOPPER = {")
        for key, present in configs.HOPPER.items():
            entry = tuple(chosen[key][f] for f in FIELDS) if key in chosen else present
            kept = "  # as before: no candidate was verified" if key in tried - set(chosen) else ""
            text.append(f'    ("{key[0]}", {key[1]}): {entry},{kept}')
        text.append("}")
    if CHAIN in tried:
        shape = {f: chosen[CHAIN][f] for f in CHAIN_FIELDS} if CHAIN in chosen else {}
        kept = "" if shape else "  # as before: no candidate was verified"
        text.append(f"CHAINED = {configs.CHAINED._replace(**shape)!r}{kept}")
    return "\n".join(text)
