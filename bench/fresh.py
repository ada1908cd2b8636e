"""One function in a fresh process: for what only a new process shows, and for what may not survive.

    fresh.call("bench.first_call", "measure", {"contender": "book", ...})

A fresh process has no compiled kernels, no allocator with memory of others, and its crash is its
own. Arguments and result are JSON.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module

from . import kept
from .hardware import ROOT

MARK = "bench-result:"


def call(module: str, function: str, arguments: dict, timeout_s: float = 120.0, **env) -> dict:
    """What `module.function(**arguments)` returns, a dict, in a new process with `env` added.

    {"failed": why} when it raises, dies or does not return within `timeout_s` seconds.
    """
    found, failure = stream(module, function, arguments, timeout_s, **env)
    return found[-1] if failure is None and found else {"failed": failure or "it returned nothing"}


def stream(
    module: str, function: str, arguments: dict, timeout_s: float = 120.0, tell=None, **env
) -> tuple[list[dict], str | None]:
    """(the dicts that a generator yielded in a new process, why it ended early or None).

    `tell` is given each dict within a second of its coming.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    failure, told, end = None, 0, time.monotonic() + timeout_s
    with (
        tempfile.NamedTemporaryFile("w") as out,
        tempfile.TemporaryFile("w+") as err,
        open(out.name) as reader,
    ):
        child = subprocess.Popen(
            [sys.executable, "-m", "bench.fresh", module, function, json.dumps(arguments)],
            stdout=out,
            stderr=err,
            env={**os.environ, "PYTHONPATH": path, **env},
        )
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = child.wait(max(0.0, min(1.0, end - time.monotonic())))
                    break
                if time.monotonic() >= end:
                    code, failure = 0, f"it did not return within {timeout_s:.0f} s"
                    break
                told = _tell(reader, told, tell)
        finally:
            child.kill()
            child.wait()
        _tell(reader, told, tell)
        found = _results(reader)
        err.seek(0)
        lines = err.read().strip().splitlines() or ["no message"]
    if code != 0:
        how = f"exit code {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                how = signal.Signals(-code).name
        failure = f"its process ended ({how}): {' '.join(lines[-1].split())[:160]}"
    elif failure is None and found and set(found[-1]) == {"failed"}:
        failure = found.pop()["failed"]
    return found, failure


def _results(reader) -> list[dict]:
    reader.seek(0)
    return [json.loads(x[len(MARK) :]) for x in reader if x.startswith(MARK) and x[-1] == "\n"]


def _tell(reader, told: int, tell: Callable | None) -> int:
    """Tell of all results but the first `told`; how many there are."""
    if tell is None:
        return 0
    found = _results(reader)
    for row in found[told:]:
        tell(row)
    return len(found)


def in_turn(
    module: str, function: str, items: list, failed: Callable, limit_s: float, say: Callable, **more
) -> list[dict]:
    """The rows that a generator yields of one item after another, also if some end its process.

    `module.function(items=…, **more)` yields rows, and {"done": …} after those of each item. An
    item that ends the process gets the row `failed(item, reason)`, and a new process goes on with
    those after it. So do items that were not reached within `limit_s` seconds.
    Where the study keeps what has ended (kept.py), those are not measured again.
    """
    begin, keep = time.monotonic(), kept.now()
    rows, left, under_way = [], [], []
    for item in items:
        there = keep.get(item) if keep else None
        if there is None:
            left.append(item)
        else:
            say(f"    {item}: kept from before")
            rows += there
    coming = iter(())

    def tell(row):
        if "done" not in row:
            under_way.append(row)
            return
        say(f"    {row['done']}, after {time.monotonic() - begin:.0f} s")
        if keep:
            keep.put(next(coming), list(under_way))
        under_way.clear()

    while left:
        under_way.clear()
        coming = iter(left)
        rest_s = limit_s - (time.monotonic() - begin)
        if rest_s <= 0:
            return rows + [failed(item, f"not measured within {limit_s:.0f} s") for item in left]
        options = {"items": left, **more}
        found, failure = stream(module, function, options, timeout_s=rest_s, tell=tell)
        rows += [row for row in found if "done" not in row]
        left = left[len([row for row in found if "done" in row]) :]
        if left:  # the first of them was under way when the process ended
            reason = failure or "it ended early"
            say(f"    {left[0]}: {reason}; going on without it")
            rows.append(failed(left[0], reason))
            left = left[1:]
    return rows


def _main(module: str, function: str, arguments: str) -> None:
    from .runner import one_line

    def tell(result):
        print(MARK + json.dumps(result), flush=True)

    try:
        result = getattr(import_module(module), function)(**json.loads(arguments))
        if isinstance(result, Iterator):
            for each in result:
                tell(each)
        else:
            tell(result)
    except Exception as problem:
        tell({"failed": one_line(problem)})


if __name__ == "__main__":
    _main(*sys.argv[1:])
