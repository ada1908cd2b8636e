"""Tuning: every candidate of a kernel's tile, verified and timed, and the table that comes of it.

The operator tunes nothing while it runs. This regenerates the table in kernels/configs.py that it
reads its tiles from: each candidate is put into the table, the operator's result is compared with
float64, and the profiler gives the time of that kernel alone.
"""

import functools
import itertools
import sys

from . import contenders, fresh, gate, profiling, runner, style
from .roofline import FORWARD, FORWARD_BACKWARD, Shape
from .tables import Table
from .timing import QUICK, DeviceClock, Lane, race

ROWS, VALUES, RESIDENT, WARPS, STAGES = (64, 128), (64, 128), (2, 4), (4, 8), (1, 2, 3)
SHAPES = {64: Shape(8, 8, 65536), 128: Shape(4, 16, 16384, 128, 128)}
FIELDS = ("rows", "values", "resident", "num_warps", "num_stages")


def kernels() -> list[tuple[str, int]]:
    """What the table knows: (kernel, features)."""
    from kernels import configs

    return list(configs.HOPPER)


def candidates(features: int, quick: bool = False) -> list[tuple]:
    """Tiles to try for heads of `features`: rows, values, resident, num_warps, num_stages."""
    values = [v for v in VALUES if v <= features]
    if quick:
        return list(itertools.product(ROWS, values[-1:], RESIDENT[:1], WARPS, STAGES[1:]))
    return list(itertools.product(ROWS, values, RESIDENT, WARPS, STAGES))


def work_of(kernel: str) -> tuple[bool, str]:
    """(causal, work) of a call that launches a kernel of that name."""
    return "causal" in kernel, FORWARD_BACKWARD if "backward" in kernel else FORWARD


def tune(names: list[tuple[str, int]], quick: bool, say) -> list[dict]:
    """A row for each candidate of each kernel; one that kills its process is a row too."""
    rows = []
    for kernel, features in names:
        left = candidates(features, quick)
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
    return {"kernel": kernel, "features": features, **dict(zip(FIELDS, tile, strict=True))}


def _failed(reason: str) -> dict:
    return {"status": "failed", "reason": reason[:240], "kernel_ms": None, "call_ms": None}


def try_all(kernel: str, features: int, tiles: list):
    """Yields a row for each tile. For a fresh process: a bad tile may spoil it."""
    from dataclasses import replace

    from kernels import configs

    causal, work = work_of(kernel)
    shape = replace(SHAPES[features], causal=causal)
    book = contenders.get("book")
    inputs = runner.Inputs(shape, work == FORWARD_BACKWARD)
    truth = inputs.truth(book.function)
    clock = DeviceClock()
    for tile in tiles:
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
        alone = sum(ms for name, ms in times.items() if name == kernel) or None
        times = {"kernel_ms": alone, "call_ms": lane.percentile(50)}
        yield row | {"status": "ok", "reason": None, **times}


def forget() -> None:
    """Empty every cache of `kernels` that may hold an older tile."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "kernels":
            for thing in list(vars(module).values()):
                if isinstance(thing, functools._lru_cache_wrapper):
                    thing.cache_clear()


def best(rows: list[dict]) -> dict[tuple[str, int], dict]:
    """The fastest verified candidate of each kernel, by the time of the kernel alone."""
    found: dict[tuple[str, int], dict] = {}
    for row in rows:
        if row["status"] != "ok":
            continue
        key = row["kernel"], row["features"]
        if key not in found or _time(row) < _time(found[key]):
            found[key] = row
    return found


def _time(row: dict) -> float:
    return row["kernel_ms"] or row["call_ms"]


def table(rows: list[dict], line: str, most: int = 5) -> Table:
    """The fastest candidates of each kernel, then how many were refused."""
    cells = []
    for key in dict.fromkeys((r["kernel"], r["features"]) for r in rows):
        mine = [r for r in rows if (r["kernel"], r["features"]) == key]
        good = sorted((r for r in mine if r["status"] == "ok"), key=_time)
        for r in good[:most]:
            times = [style.number(r["kernel_ms"]), style.number(r["call_ms"])]
            cells.append([key[0], str(key[1]), *(str(r[f]) for f in FIELDS), *times])
        refused = len(mine) - len(good)
        if refused:
            rest = [f"{refused} refused", *[""] * (len(FIELDS) + 1)]
            cells.append([key[0], str(key[1]), *rest])
    columns = ["kernel", "D", *(f.removeprefix("num_") for f in FIELDS), "kernel [ms]", "call [ms]"]
    return Table(columns, cells, f"{line}.")


def lines(rows: list[dict]) -> str:
    """The table of kernels/configs.py as it should read."""
    entries = [
        f'    ("{kernel}", {features}): ({", ".join(str(row[f]) for f in FIELDS)}),'
        for (kernel, features), row in best(rows).items()
    ]
    return "\n".join(["HOPPER = {", *entries, "}"])
