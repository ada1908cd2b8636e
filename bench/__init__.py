"""The instruments of the book: timing, gate, floor, contenders, records, figures, claims.

    session = bench.session()            # measures here if there is a GPU, else shows a record
    bench.figures.time_by_length(session.records)

`python -m bench --help` lists the commands. Parts are imported when they are first used, so that
`import bench` costs nothing and needs no plotting library.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from . import turns

_PARTS = ("comparing", "contenders", "diagrams", "figures", "gate", "hardware", "isolated")
_PARTS += ("limits", "listings", "live", "memory", "original", "profiling", "reports", "results")
_PARTS += ("roofline", "runner", "steps", "studies", "style", "tables", "timing", "truth", "tuning")
_NAMES = {
    "BenchError": "errors",
    "claim": "claims",
    "session": "book",
    "glue": "book",
    "study": "studies",
    "load": "results",
    "available": "results",
    "best_recorded": "results",
}

__all__ = [*_NAMES, *_PARTS]


def _check_kernels():
    """Another package on PyPI is called `kernels` too: say so where it would be imported."""
    spec = find_spec("kernels")
    ours = Path(__file__).resolve().parents[1] / "kernels"
    if spec is None or spec.origin is None or Path(spec.origin).resolve().parent != ours:
        found = spec.origin if spec is not None else None
        raise ImportError(
            f"`import kernels` finds {found or 'nothing'}, not the book's package {ours}: "
            f"put {ours.parent} first in PYTHONPATH, or uninstall the other package."
        )


_check_kernels()
turns.join()


def __getattr__(name):
    if name in _PARTS:
        return import_module(f"bench.{name}")
    if name in _NAMES:
        return getattr(import_module(f"bench.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'bench' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
