"""What linear attention costs in quality: small models on recall, copying and text.

Rows, by `what`:

- `trained`: one model at the end of its training, for one exam: `group` says of which comparison
  it is part, `mixer` and `heads` what it is, `state_numbers` what it keeps between tokens (None:
  all keys and values), `seed` and `rate` (learning rate, that with the lowest mean loss) how it was
  trained, `step_ms` how long a step takes of all models that are trained at once (`models`), alone
  on the GPU; `bits` is the loss and `accuracy` the share of right answers.
- `rate`: the mean loss at the end for each rate.
- `curve`: the same model on its way there, numbers of all checkpoints as one text.
- `overlap`: how much the keys of 32 pairs overlap after φ, 0 if they are orthogonal and 1 if all
  are the same, by `layer`; `when` is before or after training.
- `step`: the time of a training step by length, for as many tokens each.
- `text`: how many bytes are read in training and how many are held out, and a hash of all of them:
  the text is the book's, so that another edition trains on another.

A group of models that fails is one row of kind `trained` with its reason.
"""

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch

from .. import compiled, quality, tiny
from ..quality import HEADS, HYBRID, LAYERS, MIXERS, Plan, Training
from ..runner import one_line

ABOUT = "quality of small models by mixer: recall, copying, text (in full, some six minutes)"
MODEL = "group length mixer heads status reason"
KIND = "what"
COLUMNS = {
    "text": "bytes held_bytes",
    "step": "mixer N batch status reason | step_ms",
    "trained": (
        f"{MODEL} layers steps batch state_numbers? | task parameters step_ms exam seed rate "
        "bits accuracy"
    ),
    "rate": f"{MODEL} task rate bits?",
    "curve": f"{MODEL} task exam seed rate step_s bits_s accuracy_s",
    "overlap": f"{MODEL} task when seed layer overlap",
}

DEVICE = "cuda"
# After so many seconds no group is begun, and its row says so. With the limit of `quality-lengths`
# that leaves a quarter of an hour for both.
LIMIT_S, QUICK_S = 520, 20

RATES = (2e-2, 1e-2)
STATE = {"elu": (1, 2, 4, 8, 16), "learned φ": (1, 2, 4, 8)}  # heads; `quality-lengths` has more
STATE_PLAN = Plan(1400, 64, rates=RATES[:1])
QUICK_MIXERS = ("softmax", "elu", "learned φ", HYBRID)
PAIRS = 32  # whose keys are compared
STEP_LENGTHS, STEP_TOKENS = tuple(2**i for i in range(8, 15)), 2**14  # N = 256 … 16K


@dataclass(frozen=True)
class Group:
    """Models that are trained at once: `name` is the comparison that they are part of."""

    name: str
    task: Callable  # N -> Task
    length: int
    mixer: str
    plan: Plan
    heads: int = HEADS
    layers: int = LAYERS

    @property
    def about(self) -> dict:
        """The columns that say which models these are."""
        return {
            "group": self.name, "length": self.length, "mixer": self.mixer, "heads": self.heads,
            "layers": self.layers, "steps": self.plan.steps, "batch": self.plan.batch,
            "state_numbers": quality.state_numbers(
                self.mixer, heads=self.heads, layers=self.layers
            ),
        }  # fmt: skip


def groups(quick: bool) -> list[Group]:
    """What is trained, the most important first."""
    everything = [*MIXERS, HYBRID]
    if quick:
        plan = Plan(400, 64, rates=RATES[:1], checkpoints=4)
        return [Group("recall", quality.recall_task, 256, m, plan) for m in QUICK_MIXERS]
    recall = Plan(1000, 64, rates=RATES)
    text = Plan(400, 64, rates=RATES, anneal=False)
    copy = Plan(600, 64, rates=RATES[:1])
    return [
        *(Group("recall", quality.recall_task, 256, m, recall) for m in everything),
        *(Group("text", quality.text_task, 256, m, text) for m in everything),
        *(Group("copy", quality.copy_task, 256, m, copy) for m in everything),
        *(
            Group("state", quality.recall_task, 256, m, STATE_PLAN, h)
            for m, heads in STATE.items()
            for h in heads
        ),
    ]


def measure(quick: bool, say) -> list[dict]:
    """All rows; a group that fails, or for which no time is left, is a row that says so."""
    rows = [text_row()]
    over = time.monotonic() + (QUICK_S if quick else LIMIT_S)
    lengths = STEP_LENGTHS[:: 5 if quick else 1]  # 256 and 8192, which the page has claims about
    if quick:
        compile_all(groups(quick), lengths)
    for N in lengths:
        for mixer in QUICK_MIXERS:
            rows.append(step_time(mixer, N))
            free()
        say(f"steps of N = {N}")
    return rows + train_all(groups(quick), over, say)


def text_row() -> dict:
    """Which text is read."""
    train, held = (len(quality.text_bytes(held)) for held in (False, True))
    return {
        "what": "text", "bytes": train, "held_bytes": held, "sha256": tiny.fingerprint(),
    }  # fmt: skip


def compile_all(wanted: list[Group], lengths) -> None:
    """Rehearse what is trained, several models at a time: compiling takes longer than training."""

    def rehearse(task, mixer, plan):
        Training(task, mixer, plan, DEVICE).rehearse()

    models = [(g.task(g.length), g.mixer, g.plan) for g in wanted]
    models += [(quality.text_task(N), m, step_plan(N)) for N in lengths for m in QUICK_MIXERS]
    # the one that compiles nothing last: the first call is made alone, to set Triton up
    models.sort(key=lambda model: model[1] == "softmax")
    compiled.at_once([partial(rehearse, *model) for model in models])


def step_plan(N: int) -> Plan:
    return Plan(24, max(1, STEP_TOKENS // N), seeds=(0,))


def train_all(wanted: list[Group], over: float, say) -> list[dict]:
    """The rows of all groups; what fails, or is not begun before the clock says `over`, says so."""
    rows = []
    for group in wanted:
        try:
            if time.monotonic() > over:
                raise TimeoutError("no time was left")
            found = trained(group)
        except Exception as problem:
            found = [{"what": "trained", **group.about, "status": "failed"}]
            found[0]["reason"] = one_line(problem)
        rows += found
        say(describe(group, found))
        free()
    return rows


def equal_seconds(task: Callable, mixers, plan: Plan, over: float, say) -> list[dict]:
    """Rows of group "seconds": each mixer makes as many steps as fit the seconds of the fastest.

    The fastest makes those of `plan`. Each training has its own falling rate, so it ends as one of
    that length does; a longer one that is cut short would not.
    """
    ms, rows = {}, []
    for mixer in mixers:
        if time.monotonic() > over:
            break  # and so says each group
        try:
            ms[mixer] = short_step(task(256), mixer, plan)
        except Exception as problem:
            about = Group("seconds", task, 256, mixer, plan).about
            rows.append({"what": "trained", **about, "status": "failed"})
            rows[-1]["reason"] = one_line(problem)
        free()
    found = []
    for mixer in mixers:
        if mixer in ms or time.monotonic() > over:
            share = min(ms.values()) / ms[mixer] if mixer in ms else 1.0
            steps = max(plan.warm_up, round(plan.steps * share))
            found.append(Group("seconds", task, 256, mixer, replace(plan, steps=steps)))
    return rows + train_all(found, over, say)


def short_step(task, mixer: str, plan: Plan) -> float:
    """ms of a step of all models that are trained at once."""
    training = Training(task, mixer, plan, DEVICE)
    training.advance(8)
    return training.advance(24)


def free() -> None:
    """Give the memory of what is gone to whatever comes next."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def trained(group: Group) -> list[dict]:
    """The rows of one group, and of its checkpoints those of the best rate."""
    task = group.task(group.length)
    sizes = {"heads": group.heads, "layers": group.layers}
    training = Training(task, group.mixer, group.plan, DEVICE, **sizes)
    compared = group.name == "recall" and str(PAIRS) in task.exams
    keys = {"before": training.overlaps(PAIRS)} if compared else {}
    found, ms = training.run()
    if compared:
        keys["after"] = training.overlaps(PAIRS)
    about = group.about | {"task": task.name, "status": "ok", "reason": None}
    losses = by_rate(found)
    finite = [rate for rate, bits in losses.items() if bits is not None]
    if not finite:
        raise ArithmeticError("the loss is not finite at any rate")
    best = min(finite, key=losses.get)
    kept = ("group", "task", "length", "mixer", "heads", "status", "reason")
    short = {name: about[name] for name in kept}
    fact = {
        "parameters": training.models.parameters_each,
        "step_ms": ms,
        "models": len(training.runs),
    }
    ended = [r for r in found if r["rate"] == best and r["step"] == group.plan.steps]
    rows = [{"what": "trained", **about, **fact, **row} for row in ended]
    rows += [{"what": "rate", **short, "rate": rate, "bits": b} for rate, b in losses.items()]
    for end in ended:
        same = [r for r in found if all(r[k] == end[k] for k in ("exam", "seed", "rate"))]
        columns = {f"{k}_s": packed([r[k] for r in same]) for k in ("step", "bits", "accuracy")}
        row = {k: end[k] for k in ("exam", "seed", "rate")} | columns
        rows.append({"what": "curve", **short, "step_ms": ms, **row})
    return rows + [
        {"what": "overlap", **short, "when": when, **row}
        for when, of_layers in keys.items()
        for row in of_layers
        if row["rate"] == best
    ]


def packed(values: list) -> str:
    """Numbers as one text, which takes less room than a row for each."""
    return " ".join(f"{v:.4g}" for v in values)


def unpacked(text: str) -> list[float]:
    return [float(word) for word in text.split()]


def by_rate(rows: list[dict]) -> dict[float, float | None]:
    """The loss at the end of each learning rate, on average over seeds and exams.

    None where it is not finite for one of them.
    """
    end = max(row["step"] for row in rows)
    losses = {}
    for row in rows:
        if row["step"] == end:
            losses.setdefault(row["rate"], []).append(row["bits"])
    means = {rate: sum(found) / len(found) for rate, found in losses.items()}
    return {rate: mean if math.isfinite(mean) else None for rate, mean in means.items()}


def step_time(mixer: str, N: int) -> dict:
    """Time of one training step of one model, by length."""
    plan = step_plan(N)
    about = {"what": "step", "mixer": mixer, "N": N, "batch": plan.batch}
    try:
        training = Training(quality.text_task(N), mixer, plan, DEVICE)
        training.advance(8)
        return about | {"status": "ok", "reason": None, "step_ms": training.advance(16)}
    except Exception as problem:
        return about | {"status": "failed", "reason": one_line(problem), "step_ms": None}


def describe(group: Group, rows: list[dict]) -> str:
    """One line of progress."""
    said = f"{group.name}, N = {group.length}, {group.mixer}, {group.heads} heads"
    last = [r for r in rows if r["what"] == "trained"]
    if last[0]["status"] != "ok":
        return f"{said}: {last[0]['reason']}"
    right = sum(r["accuracy"] for r in last) / len(last)
    return f"{said}: {100 * right:.0f} % right, rate {last[0]['rate']}, {last[0]['step_ms']:.2f} ms"
