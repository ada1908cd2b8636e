"""The instruments of the book: timing, gate, floor, contenders, records, figures, claims.

    session = bench.session()            # measures here if there is a GPU, else shows a record
    bench.figures.time_by_length(session.records)

`python -m bench --help` lists the commands. Parts are imported when they are first used, so that
`import bench` costs nothing and needs no plotting library.
"""

from importlib import import_module

_PARTS = ("contenders", "figures", "gate", "hardware", "results", "roofline", "runner", "style")
_PARTS += ("tables", "timing", "truth")
_NAMES = {
    "BenchError": "errors",
    "claim": "claims",
    "session": "book",
    "glue": "book",
    "load": "results",
    "available": "results",
    "best_recorded": "results",
}

__all__ = [*_NAMES, *_PARTS]


def __getattr__(name):
    if name in _PARTS:
        return import_module(f"bench.{name}")
    if name in _NAMES:
        return getattr(import_module(f"bench.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'bench' has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
