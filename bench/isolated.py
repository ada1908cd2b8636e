"""A run in a process of its own, which may die: what it has is kept, and the run goes on.

A contender can end its process (a segmentation fault, an assertion of a library) or spoil the CUDA
context for everyone in it (an illegal memory access). The contenders still take turns in one
process, since that is what makes their times comparable. But that process is not this one: it
notes what it is about to call, and writes down every shape that is done. When it dies, what it
called last is recorded as failed, with the reason, and a new process goes on from there.
"""

import contextlib
import mmap
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from . import kept, precompile, results, runner
from .errors import BenchError
from .hardware import ROOT
from .results import Record
from .runner import Entry
from .timing import DeviceLost, HostClock

LOST = 70  # exit code of a child whose device answers no more
BAD_INPUT = 2
OUT_OF_TIME = -1000  # no signal has that number
MOST_CRASHES = 3  # of one contender; then it is not called again in this run
SILENCE_S = 900.0  # a call that lasts longer is stopped; tuning a kernel may take minutes


def run(
    *plans,
    partial=None,
    device: str = "cuda",
    command: str = "",
    say=lambda text: None,
    before: Record | None = None,
    deadline_s: float | None = None,
    plugins=(),
    silence_s: float = SILENCE_S,
    limit_s: float = float("inf"),
) -> Record:
    """`runner.run` in child processes. What is done so far is always in the file `partial`.

    `plugins` are modules (names, or paths of Python files) that register contenders.
    After `limit_s` seconds the run is stopped, in the middle of a call too; the record is then not
    complete, as after `deadline_s`.
    Raises BenchError for what `runner.run` raises it for, and when the child dies before it has
    called anybody.
    """
    begin = time.monotonic()
    refused: dict[Entry, str] = {}
    keep = kept.now() if partial is None else None
    if keep:
        partial = keep.race()
        before = results.reopen(partial) if partial.exists() else before
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        partial = Path(partial) if partial else Path(folder) / "record.partial.json"
        partial.parent.mkdir(parents=True, exist_ok=True)
        if before is None:
            partial.unlink(missing_ok=True)
        if device == "cuda":
            precompile.compile_ahead(plans, say)
        while True:
            left = None if deadline_s is None else deadline_s - (time.monotonic() - begin)
            job = {
                "plans": plans,
                "partial": str(partial),
                "device": device,
                "command": command,
                "before": before,
                "refused": refused,
                "deadline_s": left,
                "plugins": tuple(plugins),
            }
            rest_s = limit_s - (time.monotonic() - begin)
            code, entry, last = _attempt(job, Path(folder), say, silence_s, rest_s)
            if code == OUT_OF_TIME:
                say(f"stopped after {limit_s:.0f} s")
                if not partial.exists():
                    raise BenchError(f"Nothing was measured within {limit_s:.0f} s.")
                return replace(results.reopen(partial), live=True)
            if code == 0:
                return replace(results.reopen(partial), live=True)
            if code == BAD_INPUT:
                raise BenchError(last)
            if entry is None or entry in refused:
                raise BenchError(f"The measuring process {_death(code)} outside every call: {last}")
            reason = f"it {_death(code)}{f': {last}' if last else ''}"
            say(f"    {entry.contender}, {entry.work}: {reason}; going on without it")
            refused[entry] = reason[:240]
            crashes = Counter(e.contender for e in refused)
            if crashes[entry.contender] >= MOST_CRASHES:
                why = f"not called, since it {MOST_CRASHES} times {reason.removeprefix('it ')}"
                for other in _entries(plans, entry.contender):
                    refused.setdefault(other, why[:240])
            before = results.reopen(partial) if partial.exists() else before


def _entries(plans, contender: str):
    for plan in plans:
        if contender in plan.contenders:
            for shape in plan.shapes():
                for work in plan.works:
                    yield Entry(plan.experiment, contender, work, shape)


def _death(code: int) -> str:
    """How a process ended, as the end of a sentence."""
    if code == LOST:
        return "left the GPU unusable for its process"
    if code == -signal.SIGALRM:
        return "did not return in time"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"ended its process ({signal.Signals(-code).name})"
    return f"ended its process (exit code {code})"


def _attempt(job: dict, folder: Path, say, silence_s: float, rest_s: float):
    """(exit code, what was called last or None, the last line that the child left)."""
    (folder / "job").write_bytes(pickle.dumps(job))
    with Journal(folder / "journal", fresh=True) as journal, open(folder / "err", "wb") as err:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        child = subprocess.Popen(
            [sys.executable, "-m", "bench.isolated", str(folder)],
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        reader = threading.Thread(
            target=lambda: [say(x.rstrip("\n")) for x in child.stdout], daemon=True
        )
        reader.start()
        try:
            code = _wait(child, journal, silence_s, rest_s)
        except BaseException:  # Ctrl-C reaches the child too, and it ends by itself
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(10)
            child.kill()
            child.wait()
            raise
        finally:
            reader.join(5)  # no longer: what the child has started may keep its output open
        entry = journal.entry()
    lines = (folder / "err").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return code, entry, _telling(lines)


def _telling(lines: list[str]) -> str:
    """The line of what a dead process printed that says most: its error, or its last line."""
    fatal = [x for x in lines if x.startswith(("Fatal Python error", "Assertion", "RuntimeError"))]
    return " ".join((fatal or lines or [""])[-1].split())[:160]


def _wait(child, journal, silence_s: float, rest_s: float) -> int:
    """The exit code; a child is stopped that has called nobody new for `silence_s` seconds, and
    after `rest_s` seconds in any case."""
    begin = since = time.monotonic()
    seen = journal.count()
    while True:
        try:
            return child.wait(0.2)
        except subprocess.TimeoutExpired:
            if time.monotonic() - begin > rest_s:
                child.kill()
                child.wait()
                return OUT_OF_TIME
            if journal.count() != seen:
                seen, since = journal.count(), time.monotonic()
            elif time.monotonic() - since > silence_s:
                child.kill()
                child.wait()
                return -signal.SIGALRM


class Journal:
    """The last entry that was called, in a file that outlives the process which writes it."""

    SIZE = 4096

    def __init__(self, path: Path, fresh: bool = False):
        if fresh:
            path.write_bytes(bytes(self.SIZE))
        self.file = open(path, "r+b")
        self.memory = mmap.mmap(self.file.fileno(), self.SIZE)
        self.known: dict[Entry, bytes] = {}

    def __enter__(self):
        return self

    def __exit__(self, *problem):
        self.memory.close()
        self.file.close()

    def note(self, entry: Entry) -> None:
        """Write an entry down: a microsecond, and outside every timed region."""
        text = self.known.get(entry)
        if text is None:
            data = pickle.dumps(entry)
            text = self.known[entry] = len(data).to_bytes(8, "little") + data
        self.memory[8 : 8 + len(text)] = text
        self.memory[:8] = (self.count() + 1).to_bytes(8, "little")

    def count(self) -> int:
        """How many entries have been written."""
        return int.from_bytes(self.memory[:8], "little")

    def entry(self) -> Entry | None:
        """The last one."""
        if self.count() == 0:
            return None
        size = int.from_bytes(self.memory[8:16], "little")
        return pickle.loads(self.memory[16 : 16 + size])


def load_plugins(names) -> None:
    """Import modules that register contenders, by name or by the path of a Python file."""
    from importlib.util import module_from_spec, spec_from_file_location

    for name in names:
        try:
            if name.endswith(".py"):
                spec = spec_from_file_location(Path(name).stem, name)
                spec.loader.exec_module(module_from_spec(spec))
            else:
                import_module(name)
        except SystemExit as problem:
            why = f"it ends the program, with {problem.code!r}"
            raise BenchError(f"The plug-in {name} cannot be loaded: {why}.") from None
        except Exception as problem:
            raise BenchError(f"The plug-in {name} cannot be loaded: {problem}.") from None


def _child(folder: Path) -> int:
    job = pickle.loads((folder / "job").read_bytes())
    with Journal(folder / "journal") as journal:
        try:
            from . import steps

            steps.register()
            load_plugins(job["plugins"])
            record = runner.run(
                *job["plans"],
                clock=HostClock() if job["device"] == "cpu" else None,
                device=job["device"],
                command=job["command"],
                say=lambda text: print(text, flush=True),
                keep=lambda record: results.write(record, job["partial"]),
                note=journal.note,
                before=job["before"],
                refused=job["refused"],
                deadline_s=job["deadline_s"],
            )
            results.write(record, job["partial"])
        except BenchError as problem:
            print(problem, file=sys.stderr)
            return BAD_INPUT
        except DeviceLost as problem:
            print(problem, file=sys.stderr)
            sys.stderr.flush()
            os._exit(LOST)  # the usual way out would call the device again, and may hang
    return 0


if __name__ == "__main__":
    import faulthandler

    faulthandler.enable()
    sys.exit(_child(Path(sys.argv[1])))
