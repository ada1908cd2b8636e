"""Tuning: every candidate of a kernel's tile, verified and timed, and the table that comes of it.

The operator tunes nothing while it runs. This regenerates the table in kernels/configs.py that it
reads its tiles from: each candidate is put into the table, the operator's result is compared with
float64, and the profiler gives the time of that kernel alone.
"""

import functools
import itertools
import sys
from dataclasses import replace

from . import contenders, fresh, gate, profiling, runner, style
from .roofline import FORWARD, FORWARD_BACKWARD, Shape
from .tables import Table
from .timing import QUICK, DeviceClock, Lane, race

ROWS, VALUES, RESIDENT, WARPS, STAGES = (32, 64, 128), (64, 128), (1, 2, 4), (4, 8), (1, 2, 3)
SHAPES = {64: Shape(8, 8, 65536), 128: Shape(4, 16, 16384, 128, 128)}
FEW = 32  # heads, with which no other algorithm takes the place of the causal kernels
SHORT = 1024  # tokens, for which one launch does everything
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


def work_of(kernel: str) -> tuple[bool, str]:
    """(causal, work) of a call that launches a kernel of that name."""
    return "causal" in kernel or kernel == CHAIN[
        0
    ], FORWARD_BACKWARD if "backward" in kernel else FORWARD


def shape_of(kernel: str, features: int) -> Shape:
    """A shape at which the operator launches that kernel."""
    causal, _ = work_of(kernel)
    shape = replace(SHAPES[features], causal=causal)
    if "short" in kernel:
        shape = replace(shape, N=SHORT)
    if "causal" in kernel:
        shape = replace(shape, B=max(1, FEW // shape.H))
    return shape


def tune(names: list[tuple[str, int]], quick: bool, say) -> list[dict]:
    """A row for each candidate of each kernel; one that kills its process is a row too."""
    rows = []
    for kernel, features in names:
        left = candidates(kernel, features, quick)
        say(f"{kernel}, D = {features}: {len(left)} candidates")
        while left:
            options = {"kernel": kernel, "features": features, "tiles": left}
            found, failure = fresh.stream("bench.tuning", "try_all", options, timeout_s=600)
            rows += found
            left = left[len(found) :]
            if failure is not None and left:
                rows.append(_row(kernel, features, left[0]) | _failed(failure))
                left = left[1:]
    return rows


def _row(kernel: str, features: int, tile) -> dict:
    return {"kernel": kernel, "features": features, **dict(zip(fields(kernel), tile, strict=True))}


def _failed(reason: str) -> dict:
    return {"status": "failed", "reason": reason[:240], "kernel_ms": None, "call_ms": None}


def try_all(kernel: str, features: int, tiles: list):
    """Yields a row for each tile. For a fresh process: a bad tile may spoil it."""
    from kernels import configs

    _, work = work_of(kernel)
    shape = shape_of(kernel, features)
    book = contenders.get("book")
    inputs = runner.Inputs(shape, work == FORWARD_BACKWARD)
    truth = inputs.truth(book.function)
    clock = DeviceClock()
    for tile in tiles:
        if (kernel, features) == CHAIN:
            configs.CHAINED = configs.CHAINED._replace(**dict(zip(CHAIN_FIELDS, tile, strict=True)))
        else:
            configs.HOPPER[kernel, features] = tuple(tile)
        forget()
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
        times = {"kernel_ms": times[kernel], "call_ms": lane.percentile(50)}
        yield row | {"status": "ok", "reason": None, **times}


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
            chosen = ", ".join(f"{f.removeprefix('num_')} {r[f]}" for f in fields(key[0]))
            times = [style.number(r["kernel_ms"]), style.number(r["call_ms"])]
            cells.append([key[0], str(key[1]), chosen, *times])
        refused = [r["reason"] for r in mine if r["status"] != "ok"]
        if refused:
            cells.append([key[0], str(key[1]), f"{len(refused)} refused: {refused[0]}", "–", "–"])
    columns = ["kernel", "D", "shape", "kernel [ms]", "call [ms]"]
    return Table(columns, cells, f"{line}.", words=("shape",))


def lines(rows: list[dict]) -> str:
    """The table of kernels/configs.py as it should read."""
    chosen = best(rows)
    chain = chosen.pop(CHAIN, None)
    entries = [
        f'    ("{kernel}", {features}): ({", ".join(str(row[f]) for f in FIELDS)}),'
        for (kernel, features), row in chosen.items()
    ]
    text = ["HOPPER = {", *entries, "}"] if entries else []
    if chain is not None:
        from kernels import configs

        shape = {f: chain[f] for f in CHAIN_FIELDS}
        text.append(f"CHAINED = {configs.CHAINED._replace(**shape)!r}")
    return "\n".join(text)
