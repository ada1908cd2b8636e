"""What a chapter opens: measurements made here where there is a GPU, recorded ones elsewhere."""

import html
import os
from dataclasses import dataclass, replace
from pathlib import Path

from . import hardware, results, style, turns
from .errors import BenchError
from .results import Record
from .roofline import FORWARD, FORWARD_BACKWARD
from .runner import QUICK_LENGTHS, Plan, run
from .timing import QUICK

DEADLINE_S = 60.0
# The build names a file in this variable, so that its chapters measure once and share the record.
SHARED = "BOOK_LIVE_RECORD"


@dataclass(frozen=True)
class Session:
    """The records a page shows. `main` is the one its text speaks of, and the first shown."""

    main: Record
    recorded: list[Record]
    note: str

    @property
    def live(self) -> bool:
        """Whether `main` was measured by this process, or by a chapter of the same build."""
        return self.main.live

    @property
    def records(self) -> list[Record]:
        """`main` and then every other record of `results/`."""
        return [self.main, *(r for r in self.recorded if r != self.main)]

    def __repr__(self) -> str:
        return self.note

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.note)}</p>"


def reduced(dtype: str) -> list[Plan]:
    """What chapters measure: fewer lengths, and the long ones without softmax attention's backward.

    That and its truth would take longer than all the rest.
    """
    short, long = QUICK_LENGTHS[:2], QUICK_LENGTHS[2:]
    shared = {"dtype": dtype, "sampling": QUICK}
    return [
        Plan(lengths=short, **shared),
        Plan(lengths=long, works=(FORWARD,), **shared),
        Plan(("book", "eager"), lengths=long, works=(FORWARD_BACKWARD,), **shared),
    ]


def session(directory=None, deadline_s: float = DEADLINE_S, plans=None) -> Session:
    """Measure a reduced set where there is a GPU (half a minute); else take what is recorded.

    `directory` holds the records (default: `results/`), `plans` replaces the reduced set, and no
    shape is begun after `deadline_s` seconds.
    Raises BenchError where there is neither a GPU that can be measured nor a record.
    """
    recorded = [results.load(slug, directory) for slug in results.available(directory)]
    why = "There is no GPU here"
    if hardware.has_gpu():
        live, why = _measure(plans, deadline_s)
        if live is not None:
            return Session(live, recorded, f"Measured here: {live.line}.")
    if not recorded:
        raise BenchError(
            f"{why}, and results/ holds no record: run `python -m bench run` on a GPU."
        )
    best = results.best_recorded(directory)
    return Session(best, recorded, f"{why}, so what follows was {best.line}.")


@turns.alone()
def _measure(plans, deadline_s: float) -> tuple[Record | None, str]:
    """(what was measured here, "") or (None, why nothing was)."""
    shared = os.environ.get(SHARED) if plans is None else None
    if shared and Path(shared).exists():
        return replace(results.read(shared), live=True), ""
    plans = plans or reduced(str(hardware.default_dtype()).removeprefix("torch."))
    try:
        live = run(*plans, command="bench.session()", deadline_s=deadline_s)
    except BenchError as problem:
        return None, f"The GPU here could not be measured ({problem})"
    if any(m.ok for m in live.measurements):
        if shared:
            results.write(live, shared)
        return live, ""
    return None, f"The GPU here could not be measured ({live.measurements[0].reason})"


def glue(**values) -> None:
    """Give measured values a name under which the text of the page shows them.

    Numbers are written with three significant digits, None as a dash. Outside the built book,
    where myst_nb need not be installed, this does nothing.
    """
    try:
        from myst_nb import glue as paste
    except ImportError:
        return
    for name, value in values.items():
        text = value if isinstance(value, str) else style.number(value)
        paste(name, text, display=False)
