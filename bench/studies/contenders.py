"""The whole field: every contender that is installed, at a short and a long sequence."""

from dataclasses import asdict

from .. import contenders, isolated
from ..roofline import FORWARD
from ..runner import Plan
from ..timing import QUICK, Sampling

ABOUT = "every contender, also those of other packages, at 4,096 and 65,536 tokens"

SHORT, LONG = 4096, 65536
SOME = ("book", "eager", "sdpa-flash", "fla-fused-chunk", "fla-chunk-normalized")
FIELD = Sampling(least=5, most=50, budget_s=0.2)
TUNES = ("flash-bla", "flash-bla-simple")  # minutes of tuning at each new length


def plans(quick: bool) -> list[Plan]:
    """What to race: forward at both lengths, and forward + backward for the large batch."""
    if quick:
        shape = {"batches": (8,), "lengths": (SHORT,), "orders": (True,), "works": (FORWARD,)}
        return [Plan(SOME, experiment="field", sampling=QUICK, **shape)]
    field = tuple(n for n in contenders.names() if not n.startswith("step-"))
    steady = tuple(n for n in field if n not in TUNES)
    shared = {"experiment": "field", "sampling": FIELD}
    return [
        Plan(names, lengths=(n,), batches=(batch,), **works, **shared)
        for names, n in ((steady, SHORT), (field, LONG))
        for batch, works in ((8, {}), (1, {"works": (FORWARD,)}))
    ]


def measure(quick: bool, say) -> list[dict]:
    """A row for each contender, order, batch, length and work; `status` says what could not run."""
    record = isolated.run(*plans(quick), say=say)
    return rows(record.measurements)


def rows(measurements) -> list[dict]:
    """Measurements as flat rows, with the label and what was made ready for the contender."""
    named = []
    for m in measurements:
        c = contenders.get(m.contender)
        named.append(
            {
                "label": c.label,
                "family": c.function.family,
                "normalized": c.function.family == "softmax" or c.function.normalize,
                "outside": c.outside or None,
                **asdict(m),
                "share_of_floor": m.share_of_floor if m.ok else None,
            }
        )
    return named
