"""Controls that measure or train anew, in a notebook on a GPU.

Behind a page of the built book no kernel runs, and without a GPU nobody would wait for the result.
There a panel is a sentence, and what a reader can switch are prepared figures.
"""

import html
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from . import contenders, hardware, runner, style, tables, timing
from .book import SHARED


@dataclass(frozen=True)
class Note:
    """What stands in place of controls."""

    text: str

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.text)}</p>"


def panel(function: Callable, **controls):
    """ipywidgets for the arguments of `function`, and a button that calls it with what is chosen.

    A control is a list of choices, a bool, or (lowest, highest, step); the first choice, and the
    middle of a range, is chosen at first. What the function returns is displayed, and what it
    prints. Without a GPU, and while the book is built, this is a Note, and nothing is called.
    """
    if SHARED in os.environ or not hardware.has_gpu():  # the build's own variable
        names = ", ".join(name.replace("_", " ") for name in controls)
        return Note(f"In the notebook of this page, on a GPU, controls stand here: {names}.")
    from ipywidgets import interact_manual

    return interact_manual.options(manual_name="Compute")(function, **controls).widget


def race(
    first: str, second: str, batch: int, heads: int, N: int, D: int,
    order: str, dtype: str, work: str,
) -> tables.Table:  # fmt: skip
    """Two contenders on one shape [batch, heads, N, D], verified and timed here.

    What failed says why.
    """
    causal = order == style.order(True)
    pair = tuple(dict.fromkeys((first, second)))
    one = {"batches": (batch,), "lengths": (N,), "orders": (causal,), "works": (work,)}
    size = {"heads": heads, "head_dim": D, "dtype": dtype, "sampling": timing.QUICK}
    found = runner.run(runner.Plan(pair, **one, **size), command="lab 4")
    why = {m.contender: m.reason for m in found.measurements if not m.ok}
    raced = {m.contender for m in found.measurements}
    lacking = f"it has no {order} form"
    why |= {name: lacking for name in pair if name not in raced}
    table = tables.times(found, B=batch, causal=causal, work=work)
    said = "".join(f" {contenders.label(name)}: {reason}." for name, reason in why.items())
    return replace(table, caption=table.caption + said)
