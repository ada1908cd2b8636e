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
from importlib import import_module

from .hardware import ROOT

MARK = "bench-result:"


def call(module: str, function: str, arguments: dict, timeout_s: float = 120.0, **env) -> dict:
    """What `module.function(**arguments)` returns, a dict, in a new process with `env` added.

    {"failed": why} when it raises, dies or does not return within `timeout_s` seconds.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "bench.fresh", module, function, json.dumps(arguments)],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**os.environ, "PYTHONPATH": path, **env},
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"it did not return within {timeout_s:.0f} s"}
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))
    lines = done.stderr.strip().splitlines() or ["no message"]
    how = f"exit code {done.returncode}"
    if done.returncode < 0:
        with contextlib.suppress(ValueError):
            how = signal.Signals(-done.returncode).name
    return {"failed": f"its process ended ({how}): {' '.join(lines[-1].split())[:160]}"}


def _main(module: str, function: str, arguments: str) -> None:
    from .runner import one_line

    try:
        result = getattr(import_module(module), function)(**json.loads(arguments))
    except Exception as problem:
        result = {"failed": one_line(problem)}
    print(MARK + json.dumps(result), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
