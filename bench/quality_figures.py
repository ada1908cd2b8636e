"""Figures of chapter 11: a question of recall, and what models with each mixer have learned."""

from itertools import pairwise

from . import diagrams, style, tables
from .diagrams import PALETTE, Axis, Curve, Drawing, Sketch
from .figures import Figure, by_gpu
from .quality import HEADS, HYBRID, MIXERS, SOFTMAX_FIRST
from .studies import Study
from .studies.quality import unpacked
from .studies.quality_lengths import RIVALS

NAMES = {
    "softmax": "softmax attention",
    "elu": "elu + 1",
    "relu": "relu",
    "exp": "exp",
    "softmax φ": "softmax over features",
    "identity": "identity",
    "Taylor": "Taylor",
    "learned φ": "learned φ",
    "decay": "elu + 1, decay",
    "selective decay": "elu + 1, selective decay",
    HYBRID: "elu + 1, then softmax",
    SOFTMAX_FIRST: "softmax, then elu + 1",
}
LOOKS = {
    "softmax": "sdpa-flash", "elu": "book", "relu": "eager", "exp": "sdpa-cudnn",
    "softmax φ": "a", "identity": "b", "Taylor": "c", "learned φ": "sdpa-cudnn",
    "decay": "eager", "selective decay": "a", HYBRID: "d", SOFTMAX_FIRST: "sdpa-cudnn",
}  # fmt: skip
FAMILIES = {
    "feature maps": ("softmax", "elu", "relu", "exp", "softmax φ", "identity"),
    "remedies": ("softmax", "elu", "Taylor", "learned φ", "decay", "selective decay", HYBRID),
}
LENGTH = 256  # at which all mixers are compared
PERCENT = Axis("right answers [%]")


def question(pairs=(("k", "7"), ("c", "2"), ("t", "5")), asked=(1, None, 2, 0)) -> Drawing:
    """Pairs of key and value, and questions for some; None is noise."""
    words = " ".join(key + value for key, value in pairs)
    alt = (
        f"A sequence of recall: first the pairs {words}; then, among noise, keys that were seen "
        "before. At each of them the model has to say the value that stood behind it, which an "
        "arrow joins to the place where it was."
    )
    s, size, left, top = Sketch("question"), 40, 12, 96
    at, places = left, []
    s.text(left, 24, "Pairs, to be remembered", size=17)
    for i, pair in enumerate(pairs):
        places.append(at + size * 1.5)
        for word in pair:
            s.box(at, top, size - 4, size, PALETTE[i], word, opacity=0.35)
            at += size
    at += size / 2
    s.text(at, 24, "Questions, among noise", size=17)
    for which in asked:
        for j in range(2):
            color = "none" if which is None else PALETTE[which]
            word = "·" if which is None else pairs[which][j] if j == 0 else "?"
            s.box(at, top, size - 4, size, color, word, opacity=0.35, dashed=which is None)
            if which is not None and j == 1:
                s.arc(places[which], at + size / 2 - 2, top - 4, 40)
            at += size
    return s.drawing(at + 8, top + size + 12, alt)


def mean(values: list) -> float:
    return sum(values) / len(values)


def seeds(study: Study, column: str, **wanted) -> list[float]:
    """A column of the models that were trained, one for each seed and exam."""
    return study.column(column, what="trained", status="ok", **wanted)


def cell(values: list, digits: int = 3) -> str:
    """The mean, and in brackets the least and the most."""
    if not values:
        return "–"
    ends = [style.number(f(values), digits) for f in (min, max)]
    middle = style.number(mean(values), digits)
    return middle if ends[0] == ends[1] == middle else f"{middle} ({ends[0]}–{ends[1]})"


def _curve(name: str, found: dict) -> Curve:
    """A curve of means with the spread over the seeds; `found` maps x to the values there."""
    xs = sorted(found)
    ends = [(min(found[x]), max(found[x])) for x in xs]
    look = LOOKS[name]
    return Curve(NAMES[name], xs, [mean(found[x]) for x in xs], look, spread=ends)


def _percent(values: list) -> list:
    return [100 * v for v in values]


def _lengths(rows: list[dict]) -> list[int]:
    """First the length that all mixers are compared at, then the others."""
    return sorted({r["length"] for r in rows}, key=lambda n: (n != LENGTH, n))


def by_pairs(shown: list[Study]) -> Figure | tables.Table:
    """Right answers by the number of pairs; a switch chooses which mixers, and the length."""
    return by_gpu(shown, _by_pairs)


def _by_pairs(study: Study) -> Figure:
    panels, alts = {}, []
    rows = study.select(what="trained", group="recall", status="ok")
    for length in _lengths(rows):
        for family, members in FAMILIES.items():
            drawn = []
            for name in members:
                found = {}
                for r in rows:
                    if (r["mixer"], r["length"]) == (name, length):
                        found.setdefault(int(r["exam"]), []).append(100 * r["accuracy"])
                if found:
                    drawn.append(_curve(name, found))
            if len(drawn) < 3:  # no comparison
                continue
            panels[f"{family}, N = {style.length(length)}"] = drawn
            ends = [f"{c.label} {style.number(c.y[-1])} % of {c.x[-1]} pairs" for c in drawn]
            alts.append(f"Right answers by pairs in {length} tokens: {'; '.join(ends)}.")
    ticks = {p: str(p) for p in sorted({int(r["exam"]) for r in rows})}
    x = Axis("pairs to remember", log=True, ticks=ticks)
    return _figure(study, panels, alts, x, PERCENT, "Mixers")


def by_state(shown: list[Study], more: list[Study] = ()) -> Figure | tables.Table:
    """Right answers by the size of the state; a switch chooses the number of pairs.

    `more` are records with further sizes: they are shown with a record of the same GPU.
    """
    return by_gpu(shown, lambda study: _by_state(study, more))


def _by_state(study: Study, more: list[Study]) -> Figure:
    wanted = {"what": "trained", "group": "state", "status": "ok", "length": LENGTH}
    rows = study.select(**wanted)
    source = study.line
    for other in more:
        further = other.select(**wanted)
        if rows and further and not study.live and other.provenance.gpu == study.provenance.gpu:
            rows = rows + further
            source += f"; with 16 heads in part: {other.line}"
    several = {r["mixer"] for r in rows if r["state_numbers"]}  # sizes, trained alike
    others = study.select(what="trained", group="recall", status="ok", length=LENGTH)
    others = [r for r in others if r["mixer"] not in several]
    for kind, made in (("of several sizes", rows), ("of one size", others)):
        if made:
            source += f"; steps of models {kind}: {max(r['steps'] for r in made):,}"
    rows = rows + others
    panels, alts = {}, []
    sizes = sorted({r["state_numbers"] for r in rows if r["state_numbers"]})
    for exam in sorted({int(r["exam"]) for r in rows}, reverse=True):
        drawn = []
        asked = [r for r in rows if r["exam"] == str(exam)]
        for name in MIXERS:
            found = {}
            for r in asked:
                if r["mixer"] == name and r["state_numbers"]:
                    found.setdefault(r["state_numbers"], []).append(100 * r["accuracy"])
            if found and name in FAMILIES["remedies"]:
                drawn.append(_curve(name, found))
        soft = [
            100 * r["accuracy"] for r in asked if r["mixer"] == "softmax" and r["heads"] == HEADS
        ]
        if not drawn:
            continue
        best = [f"{c.label} {style.number(c.y[-1])} % with {c.x[-1]} numbers" for c in drawn]
        if soft:
            line = [mean(soft)] * 2
            drawn.append(Curve(NAMES["softmax"], [sizes[0], sizes[-1]], line, "sdpa-flash", False))
        panels[f"{exam} pairs"] = drawn
        alts.append(f"Right answers for {exam} pairs by the size of the state: {'; '.join(best)}.")
    ticks = {2**i: style.length(2**i) for i in range(6, 20)}
    x = Axis("numbers in the state of all layers", log=True, ticks=ticks)
    return _figure(study, panels, alts, x, PERCENT, "Pairs", source)


def learning(shown: list[Study], task: str = "text", exam: str = "text") -> Figure | tables.Table:
    """Bits for each answer, or held-out byte, on the way, by steps and by seconds of training."""
    return by_gpu(shown, lambda study: _learning(study, task, exam))


def curves_of(study: Study, column: str = "bits", **wanted) -> dict[str, list[list[tuple]]]:
    """For each mixer and seed the points (steps, seconds, bits or `accuracy`) on the way."""
    found = {}
    for r in study.select(what="curve", status="ok", **wanted):
        steps, values = unpacked(r["step_s"]), unpacked(r[f"{column}_s"])
        points = [(s, s * r["step_ms"] / 1e3, x) for s, x in zip(steps, values, strict=True)]
        found.setdefault(r["mixer"], []).append(points)
    return found


def _learning(study: Study, task: str, exam: str) -> Figure:
    panels, alts = {}, []
    asked = {"group": task, "exam": exam}
    for length in _lengths(study.select(what="curve", **asked)):
        found = curves_of(study, **asked, length=length)
        for column, unit in enumerate(("steps", "seconds")):
            for family, members in FAMILIES.items():
                drawn = []
                for name in members:
                    at = {}
                    for points in found.get(name, []):
                        for point in points:
                            at.setdefault(point[column], []).append(point[2])
                    if at:
                        drawn.append(_curve(name, at))
                if len(drawn) < 3:
                    continue
                panels[f"{family}, N = {style.length(length)}, by {unit}"] = drawn
                ends = [f"{c.label} {style.number(c.y[-1])}" for c in drawn]
                alts.append(f"Bits at the end of training, N = {length}: {'; '.join(ends)}.")
    what = "held-out byte" if task == "text" else "answer"
    x, y = Axis("steps, or seconds, of training"), Axis(f"bits for each {what}", zero=False)
    return _figure(study, panels, alts, x, y, "Show")


def step_times(shown: list[Study]) -> Figure | tables.Table:
    """Time of a training step by length, as many tokens each."""
    return by_gpu(shown, _step_times)


def _step_times(study: Study) -> Figure:
    rows = study.select(what="step", status="ok")
    drawn = []
    for name in NAMES:
        found = {r["N"]: r["step_ms"] for r in rows if r["mixer"] == name}
        if found:
            xs = sorted(found)
            drawn.append(Curve(NAMES[name], xs, [found[n] for n in xs], LOOKS[name]))
    ends = [f"{c.label} {style.number(c.y[-1])} ms at {style.length(c.x[-1])}" for c in drawn]
    lengths = sorted({r["N"] for r in rows})
    x = Axis("N", log=True, ticks={n: style.length(n) for n in lengths}, text=style.length)
    alts = [f"Time of a step by length: {'; '.join(ends)}."]
    return _figure(study, {"all": drawn} if drawn else {}, alts, x, Axis("time of a step [ms]"), "")


def capacity(found: dict, limits: dict, words: int) -> Figure:
    """Right answers of a state of random pairs.

    `found` maps a size D to {φ: {pairs: share}}, `limits` D to the number of pairs predicted for
    D × D numbers and `words` values.
    """
    panels, alts = {}, []
    looks = {label: LOOKS[name] for name, label in NAMES.items()}
    for D, maps in found.items():
        drawn = [
            Curve(name, list(at), _percent(at.values()), looks.get(name, "a"))
            for name, at in maps.items()
        ]
        limit = limits[D]
        drawn.append(Curve("predicted limit", [limit, limit], [0, 100], "floor", False))
        panels[f"D = {D}"] = drawn
        half = [
            f"{name} {style.number(100 * list(at.values())[-1])} %" for name, at in maps.items()
        ]
        most = max(next(iter(maps.values())))
        alts.append(
            f"Right answers of a state of {D} by {D} random pairs, by how many were stored: with "
            f"{most} pairs {'; '.join(half)}. The predicted limit is {style.number(limit)} pairs."
        )
    pairs = sorted({p for maps in found.values() for at in maps.values() for p in at})
    x = Axis("pairs stored", log=True, ticks={p: str(p) for p in pairs})
    source = f"Computed here, with random keys and {words} random values."
    return diagrams.curves(panels, x=x, y=PERCENT, alts=alts, switch="Size", source=source)


def summary(study: Study, length: int = LENGTH) -> tables.Table:
    """What each mixer reaches on each task, with the spread over the seeds."""
    exams = sorted(
        {int(r["exam"]) for r in study.select(what="trained", group="recall", status="ok")}
    )
    exams = exams[-2:]
    body = []
    for name in NAMES:
        at = {"mixer": name, "length": length}
        if not study.select(what="trained", **at):
            continue
        recall = [
            cell(_percent(seeds(study, "accuracy", group="recall", exam=str(e), **at)))
            for e in exams
        ]
        copied = cell(_percent(seeds(study, "accuracy", group="copy", **at)))
        bits = cell(seeds(study, "bits", group="text", **at))
        body.append([NAMES[name], *recall, copied, bits])
    columns = ["mixer", *(f"recall, {e} pairs [%]" for e in exams), "copy [%]", "text [bits/byte]"]
    return tables.Table(
        columns, body, f"Mean of three seeds (least–most); {study.line}.", words=("mixer",)
    )


def equal_time(study: Study, length: int, group: str = "text") -> list[dict]:
    """What each mixer has reached in the same seconds: when the fastest has made all its steps.

    Rows of mixer, steps, seconds, and the bits of each seed, between two checkpoints on a line; of
    the fastest those at the end, of which a curve has fewer digits.
    """
    wanted = {"group": group, "length": length}
    rows = _cut(curves_of(study, **wanted), "bits")
    for r in rows:
        at_the_end = seeds(study, "bits", mixer=r["mixer"], steps=r["steps"], **wanted)
        r["bits"] = at_the_end or r["bits"]
    return rows


def _cut(curves: dict, name: str) -> list[dict]:
    """Rows of mixer, steps, seconds, and what `name` says of each seed after those seconds."""
    if not curves:
        return []
    seconds = min(points[-1][1] for seeds_ in curves.values() for points in seeds_)
    return [
        {
            "mixer": mixer,
            "seconds": seconds,
            "steps": _between(seconds, of_seed[0], 0),
            name: [_between(seconds, points, 2) for points in of_seed],
        }
        for mixer, of_seed in curves.items()
    ]


EXAMS = {"recall": "64", "copy": "copy"}  # of equal seconds


def cut_trainings(study: Study, length: int = LENGTH) -> tables.Table:
    """What the mixers of `equal_trainings` had learned when the fastest had made all its steps.

    From trainings of equal steps, each cut between two checkpoints.
    """
    at, seconds = {}, []
    for task, exam in EXAMS.items():
        curves = curves_of(study, "accuracy", group=task, exam=exam, length=length)
        rows = _cut({m: curves[m] for m in RIVALS if m in curves}, "accuracy")
        at |= {
            (r["mixer"], task): [f"{r['steps']:.0f}", cell(_percent(r["accuracy"]))] for r in rows
        }
        seconds += [f"{task} {style.number(r['seconds'])} s" for r in rows[:1]]
    return _by_task(at, "Trainings of equal steps, cut", seconds, study)


def _by_task(at: dict, title: str, seconds: list[str], study: Study) -> tables.Table:
    """A row for each mixer; `at` maps mixer and task to a number of steps and what was right."""
    body = [
        [NAMES[m], *(x for task in EXAMS for x in at.get((m, task), ["–", "–"]))]
        for m in NAMES
        if any((m, task) in at for task in EXAMS)
    ]
    took = f"{title}: {', '.join(seconds)}" if seconds else "Not in this record yet"
    columns = ["mixer", "recall, steps", "64 pairs [%]", "copy, steps", "copied [%]"]
    caption = f"{took}; mean of three seeds (least–most); {study.line}."
    return tables.Table(columns, body, caption, words=("mixer",))


def equal_trainings(study: Study, length: int = LENGTH) -> tables.Table:
    """Recall and copying where each mixer had the same seconds, in trainings of their own."""
    at, seconds = {}, []
    for task, exam in EXAMS.items():
        wanted = {"group": "seconds", "task": task, "length": length, "exam": exam}
        rows = study.select(what="trained", status="ok", **wanted)
        for m in {r["mixer"]: None for r in rows}:
            right = _percent(seeds(study, "accuracy", mixer=m, **wanted))
            at[m, task] = [str(seeds(study, "steps", mixer=m, **wanted)[0]), cell(right)]
        if rows:
            took = mean([r["steps"] * r["step_ms"] / 1e3 for r in rows])
            seconds.append(f"{task} {style.number(took)} s")
    return _by_task(at, "Trainings of equal seconds", seconds, study)


def left_out(*found: Study) -> list[str]:
    """The comparisons that some of these studies left out and none of them has."""
    key = ("group", "length", "mixer", "heads")
    rows = [r for study in found for r in study.select(what="trained")]
    made = {tuple(r.get(k) for k in key) for r in rows if r["status"] == "ok"}
    missing = {tuple(r.get(k) for k in key): r for r in rows if r["status"] != "ok"}
    return [
        f"{r['group']}, {NAMES[r['mixer']]}, {r['heads']} heads, {r['length']} tokens"
        for at, r in missing.items()
        if at not in made
    ]


def _between(seconds: float, points: list[tuple], column: int) -> float:
    """A column of points (steps, seconds, bits), on a line between two neighbours."""
    for before, after in pairwise(points):
        if seconds <= after[1]:
            share = (seconds - before[1]) / (after[1] - before[1])
            return before[column] + share * (after[column] - before[column])
    return points[-1][column]


def overlaps(study: Study, length: int = LENGTH) -> tables.Table:
    """How much the stored keys of 32 pairs overlap after φ, before training and after it."""
    body = []
    for name in NAMES:
        rows = study.select(what="overlap", mixer=name, length=length)
        layers = sorted({r["layer"] for r in rows})
        cells = [
            style.number(
                mean([r["overlap"] for r in rows if (r["layer"], r["when"]) == (layer, when)]), 2
            )
            for layer in layers
            for when in ("before", "after")
        ]
        if cells:
            body.append([NAMES[name], *(cells + ["–"] * 4)[:4]])
    columns = [f"layer {layer}, {when}" for layer in (1, 2) for when in ("before", "after")]
    caption = f"Mean cosine between the features of two stored keys of 32; {study.line}."
    return tables.Table(["mixer", *columns], body, caption, words=("mixer",))


def _figure(
    study: Study, panels, alts, x: Axis, y: Axis, switch: str, line: str = ""
) -> Figure | tables.Table:
    if not panels:
        return tables.Table(["nothing was measured"], [], study.line)
    source = style.sentence(line or study.line)
    return diagrams.curves(panels, x=x, y=y, alts=alts, switch=switch or "Show", source=source)
