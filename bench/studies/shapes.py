"""A few contenders where one of heads, head size and dtype is another than in the race by length.

For lab 4, whose panel in a notebook races any shape: the page has these.
"""

from .. import isolated
from ..roofline import FORWARD
from ..runner import Plan
from ..timing import QUICK, Sampling
from .contenders import COLUMNS, rows

__all__ = ["ABOUT", "COLUMNS", "measure", "plans"]

ABOUT = (
    "softmax and linear attention with other heads, head sizes and dtypes, one changed at a time"
)

SOME = ("book", "eager", "sdpa-flash", "sdpa-cudnn")
LENGTHS, QUICK_LENGTHS = (1024, 4096, 16384), (4096,)
CHANGES = [{"heads": 1}, {"heads": 32}, {"head_dim": 32}, {"head_dim": 128}]
CHANGES += [{"dtype": "float16"}, {"dtype": "float32"}]
LIMIT_S = 150.0  # what has not been raced by then is missing
FEW = Sampling(least=3, most=30, budget_s=0.1)


def plans(quick: bool) -> list[Plan]:
    """A race for each change, of 8 sequences, forward."""
    shared = {"batches": (8,), "works": (FORWARD,), "experiment": "shapes"}
    shared |= {"lengths": QUICK_LENGTHS if quick else LENGTHS, "sampling": QUICK if quick else FEW}
    return [Plan(SOME, **shared, **change) for change in CHANGES]


def measure(quick: bool, say) -> list[dict]:
    """A row for each contender, order, length and change; `status` says what could not run.

    Raises BenchError where nothing was raced in time.
    """
    return rows(isolated.run(*plans(quick), say=say, limit_s=LIMIT_S).measurements)
