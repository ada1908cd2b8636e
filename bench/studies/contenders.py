"""The whole field: every contender that is installed, at a short and a long sequence."""

import time
from dataclasses import asdict

from .. import contenders, isolated
from ..errors import BenchError
from ..roofline import FORWARD, FORWARD_BACKWARD
from ..runner import Entry, Plan
from ..timing import QUICK, Sampling

ABOUT = (
    "every contender, also those of other packages, at 4,096 and 65,536 tokens; "
    "a loop in Python at 1,024"
)
COLUMNS = (
    "label family outside? contender causal work B H N D Dv dtype status reason | bytes flops "
    "error median_ms p20_ms p80_ms floor_ms share_of_floor"
)

LOOPED, SHORT, LONG = 1024, 4096, 65536
SOME = ("book", "eager", "sdpa-flash", "sdpa-cudnn")
PLAIN = (*SOME, "compiled", "sdpa-efficient", "sdpa-math")
ATTENTION = ("flash-attn-2", "flash-attn-3", "flash-attn-4")
FLA = tuple(n for n in contenders.names() if n.startswith("fla-"))
FIELD = Sampling(least=3, most=30, budget_s=0.15)
LIMIT_S = 380.0  # what has not been raced by then is said to be missing


def parts(quick: bool) -> list[list[Plan]]:
    """What to race, part by part: those that tune themselves for long come last.

    Each part is a run of its own, since a run first compiles all that its contenders try out.
    """
    shared = {"experiment": "field", "batches": (8,)}
    if quick:
        shared |= {"lengths": (SHORT,), "works": (FORWARD,), "sampling": QUICK}
        return [[Plan(SOME, **shared)]]
    shared |= {"sampling": FIELD}
    forward, both = {"works": (FORWARD,)}, {"works": (FORWARD_BACKWARD,)}
    long, short = {"lengths": (LONG,)}, {"lengths": (SHORT,)}
    plain = (*PLAIN, *ATTENTION)
    one = {"orders": (False,)} | long
    return [
        [
            Plan(plain, **long, **forward, **shared),
            Plan(plain, **short, **forward, **shared),
            Plan(("book", "loop"), lengths=(LOOPED,), **forward, **shared),
            Plan(plain, **short, **both, **shared),
            Plan(("book", "eager"), **long, **both, **shared),
        ],
        [
            Plan(("book", "book-decay", *FLA), orders=(True,), **long, **forward, **shared),
            Plan(("book", "book-decay", *FLA), orders=(True,), **long, **both, **shared),
            Plan(FLA, orders=(True,), **short, **forward, **shared),
            Plan(FLA, orders=(True,), **short, **both, **shared),
            Plan(("book", "flash-bla-simple"), **one, **forward, **shared),
            Plan(("book", "flash-bla-simple"), **one, **both, **shared),
        ],
        [Plan(("book", "flash-bla"), **one, **forward, **shared)],
    ]


def measure(quick: bool, say) -> list[dict]:
    """A row for each contender, order, batch, length and work; `status` says what could not run."""
    begin, found = time.monotonic(), []
    chosen = parts(quick)
    for plans in chosen:
        rest_s = LIMIT_S - (time.monotonic() - begin)
        if rest_s <= 0:
            break
        try:
            found += isolated.run(*plans, say=say, limit_s=rest_s).measurements
        except BenchError as problem:  # nothing of this part in the time that was left
            say(str(problem))
    once = {Entry.of(m): m for m in found}  # the book races in several parts; the last one counts
    if not once:
        raise BenchError(f"Nothing was raced within {LIMIT_S:.0f} s.")
    every = [plan for plans in chosen for plan in plans]
    return rows(once.values()) + missing(every, once.values())


def missing(chosen: list[Plan], measurements) -> list[dict]:
    """A row for each entry that was not raced in time."""
    done = {Entry.of(m) for m in measurements}
    found = []
    for plan in chosen:
        for shape in plan.shapes():
            for name in plan.contenders:
                c = contenders.get(name)
                for work in plan.works:
                    entry = Entry(plan.experiment, name, work, shape)
                    if shape.causal not in c.causal or entry in done:
                        continue
                    done.add(entry)
                    gone = c.available()
                    status = "failed" if gone is None else "not_installed"
                    reason = gone or f"not raced: the run was over after {LIMIT_S:.0f} s"
                    found.append(
                        {
                            "label": c.label,
                            "family": c.function.family,
                            "normalized": c.function.family == "softmax" or c.function.normalize,
                            "outside": c.outside or None,
                            "contender": name,
                            "work": work,
                            **asdict(shape),
                            "status": status,
                            "reason": reason,
                        }
                    )
    return found


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
