"""Turns at a machine: cells of several pages run side by side, and what measures runs alone.

The build executes several pages at once and names a file in BOOK_TURNS. The kernel of a page
holds the lock of that file together with the others while a cell runs, and alone while it
measures. In every other process nothing waits.
"""

import contextlib
import os
import sys

VARIABLE = "BOOK_TURNS"
_lock = None  # the file, in the kernel of a page
_measuring = False


def join() -> None:
    """Let the cells of this page take turns with those of other pages, from the running one on."""
    global _lock
    path, ipython = os.environ.get(VARIABLE), sys.modules.get("IPython")
    page = ipython.get_ipython() if path and ipython else None
    if page is None or _lock is not None:
        return
    _lock = open(path, "w")  # until the kernel ends
    page.events.register("pre_run_cell", lambda info: _hold("LOCK_SH"))
    page.events.register("post_run_cell", lambda result: _leave())
    _hold("LOCK_SH")


@contextlib.contextmanager
def alone():
    """While this lasts no cell of another page runs."""
    global _measuring
    if _lock is None or _measuring:
        yield
        return
    _hold("LOCK_EX")  # the shared lock is given up first, so two that wait here cannot block
    _measuring = True
    try:
        yield
    finally:
        _measuring = False
        _hold("LOCK_SH")


def _leave() -> None:
    """Between two cells: what they no longer use of the GPU's memory is there for others."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        with contextlib.suppress(RuntimeError):  # a cell can have spoiled the context
            torch.cuda.empty_cache()
    _hold("LOCK_UN")


def _hold(how: str) -> None:
    import fcntl  # there is none on Windows

    fcntl.flock(_lock, getattr(fcntl, how))
