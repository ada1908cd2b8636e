"""More of quality: recall in shorter and longer texts, a long text to learn, and a low rate.

Rows as those of the study `quality`, of which this is the second half:

- group `recall`: as there, in 128, 512 and 1024 tokens.
- group `text`: as there, in 8192 tokens, where softmax attention takes most of the time.
- group `low rate`: recall in 256 tokens at a lower learning rate.
- group `order`: softmax attention in the first of two layers instead of the second.
- group `state`: as in `quality`, with 16 heads, of the mixers that it leaves to this one.
- group `seconds`: recall and copying in 256 tokens, with as many steps as fit the same seconds.
- `text`: as there.
"""

import time

from .. import quality
from ..quality import HYBRID, SOFTMAX_FIRST, Plan
from .quality import (  # noqa: F401
    COLUMNS,
    KIND,
    QUICK_S,
    RATES,
    STATE_PLAN,
    Group,
    equal_seconds,
    text_row,
    train_all,
)

ABOUT = (
    "quality by length, layers, rate and equal time: the second half of `quality` (four minutes)"
)

MIXERS = ("softmax", "elu", "learned φ")
LENGTHS = {128: 64, 512: 32, 1024: 16}  # tokens, and how many sequences there are in a step
LONG_TEXT = 8192  # tokens
LOW_RATE = 4e-3
MANY_HEADS = {"learned φ": 16, "softmax": 16}
RIVALS = ("softmax", "elu", "Taylor", "learned φ", "decay", "selective decay", HYBRID)
SECONDS = (  # tasks, and how the fastest mixer is trained
    (quality.recall_task, Plan(1000, 64, rates=RATES)),
    (quality.copy_task, Plan(600, 64, rates=RATES[:1])),
)
LIMIT_S = 300  # as that of `quality`


def groups(quick: bool) -> list[Group]:
    """What is trained, the most important first."""

    def recall(batch, rate=RATES[0]):
        return Plan(300 if quick else 1400, batch, rates=(rate,), exam=32)

    text = Plan(100 if quick else 500, 2, rates=RATES[1:], anneal=False, exam=8)
    lengths = {512: LENGTHS[512]} if quick else LENGTHS
    return [
        *(Group("text", quality.text_task, LONG_TEXT, m, text) for m in ("softmax", "elu", HYBRID)),
        *(
            Group("low rate", quality.recall_task, 256, m, recall(64, LOW_RATE))
            for m in ("softmax", "elu", HYBRID)
        ),
        Group("order", quality.recall_task, 256, SOFTMAX_FIRST, recall(64)),
        Group("order", quality.copy_task, 256, SOFTMAX_FIRST, recall(64)),
        *(
            Group("recall", quality.recall_task, N, m, recall(batch))
            for N, batch in lengths.items()
            for m in MIXERS
        ),
        *(
            Group("state", quality.recall_task, 256, m, STATE_PLAN, heads)
            for m, heads in ({} if quick else MANY_HEADS).items()
        ),
    ]


def measure(quick: bool, say) -> list[dict]:
    """All rows."""
    over = time.monotonic() + (QUICK_S if quick else LIMIT_S)
    rows = [text_row(), *train_all(groups(quick), over, say)]
    for task, plan in () if quick else SECONDS:
        rows += equal_seconds(task, RIVALS, plan, over, say)
    return rows
