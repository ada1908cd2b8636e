"""Figures of chapter 12: masks, horizons, what overflows, both directions, times and errors."""

from . import contenders, diagrams, style, tables
from .attention_figures import weight_maps
from .diagrams import PALETTE, Axis, Curve, Drawing, Sketch
from .figures import Figure, by_gpu
from .studies import Study

LABELS = {
    "plain": "this book, no decay",
    "fixed": "this book, one for each head",
    "selective": "this book, one for each token",
    "strong": "the same, strong decays",
    "ready": "this book, one for each token, φ outside",
    "simple-gla": "fla simple GLA, φ outside",
}
LOOKS = {
    "plain": "book",
    "fixed": "eager",
    "selective": "sdpa-flash",
    "strong": "eager",
    "ready": "tiled",
    "simple-gla": "sdpa-cudnn",
}

DECADES = {10.0**e: f"1e{e}" if e else "1" for e in range(-9, 1)}


def masks(kinds: dict[str, list[float]]) -> Figure:
    """M for a short sequence; switches choose the decays and the directions.

    `kinds` maps a name to the factors γ of the tokens. A pair that a causal mask hides is empty.
    """
    maps = {}
    for name, factors in kinds.items():
        n = range(len(factors))
        whole = [[_product(factors[min(i, j) + 1 : max(i, j) + 1]) for j in n] for i in n]
        maps[name, "causal"] = [[m if j <= i else None for j, m in enumerate(row)]
                                for i, row in enumerate(whole)]  # fmt: skip
        maps[name, "both"] = whole
    tokens = [str(t) for t in range(1, 1 + max(map(len, kinds.values())))]
    return weight_maps(
        tokens,
        maps,
        switches={"Decay": list(kinds), "Directions": ["causal", "both"]},
        source="Computed: the product of the factors between two tokens.",
    )


def _product(factors) -> float:
    found = 1.0
    for factor in factors:
        found *= factor
    return found


def horizons(factors: dict[str, float], ages: list[int]) -> Figure:
    """What is left of a token by its age, for one factor at a time; its horizon is a line."""
    panels, alts = {}, []
    for name, factor in factors.items():
        horizon = 1 / (1 - factor)
        panels[name] = [
            Curve("what is left of a token", ages, [factor**age for age in ages], "book", False),
            Curve("horizon", [horizon, horizon], [0, 1], "floor", False),
            Curve(
                "1/e is left",
                [ages[0], ages[-1]],
                [0.36788, 0.36788],
                "sdpa-flash",
                False,
            ),
        ]
        half = next((a for a in ages if factor**a < 0.5), ages[-1])
        alts.append(
            f"{name}: half of a token is left after {half} tokens; the horizon is "
            f"{style.number(horizon)} tokens, where about a third is left."
        )
    ticks = {4**i: style.length(4**i) for i in range(8) if ages[0] <= 4**i <= ages[-1]}
    return diagrams.curves(
        panels,
        x=Axis("tokens ago", log=True, ticks=ticks),
        y="what is left",
        alts=alts,
        switch="Decay",
        source="Computed: the factor to the power of the age.",
    )


def remembered(factors: list[float], share: float = 0.01) -> Figure:
    """How far back each token still sees `share` of another one, under factors of its own."""
    sees = []
    for t in range(len(factors)):
        left, age = 1.0, 0
        while age < t and left * factors[t - age] >= share:
            left *= factors[t - age]
            age += 1
        sees.append(age)
    tokens = list(range(1, len(factors) + 1))
    lost = [t for t, f in zip(tokens, factors, strict=True) if f < 0.1]
    drawn = {
        "tokens": [Curve("tokens in sight", tokens, sees, "book", False)],
        "factors": [Curve("factor of the token", tokens, factors, "sdpa-flash", False)],
    }
    alts = [
        f"Tokens in sight by position: they grow with each token, up to {max(sees)}, and fall to "
        f"none at tokens {', '.join(map(str, lost))}.",
        f"The factor of each token: between {style.number(min(factors), 2)} and "
        f"{style.number(max(factors), 2)}, and near 0 at tokens {', '.join(map(str, lost))}.",
    ]
    return diagrams.curves(
        drawn,
        x=Axis("token", zero=False),
        y="",
        alts=alts,
        switch="Show",
        marks=[],
        source=f"Computed: a token is in sight while {share:.0%} of it is left.",
    )


def errors(found: dict[str, dict[float, float]], *, worst: float = 1.0) -> Figure:
    """Relative error of ways to compute a chunk by the decay of a token, -log γ.

    `found` maps a way to {-log γ: error}; an error that is no number is drawn at `worst`.
    """
    drawn, ends = [], []
    looks = ("sdpa-flash", "book", "eager")
    for (name, points), look in zip(found.items(), looks, strict=False):
        xs = sorted(points)
        ys = [y if y == y and y < worst else worst for y in (points[x] for x in xs)]
        drawn.append(Curve(name, xs, [max(y, 1e-9) for y in ys], look))
        first = next((x for x, y in zip(xs, ys, strict=True) if y >= worst), None)
        ends.append(
            f"{name}: " + ("right at every decay" if first is None
                           else f"no number from -log γ = {style.number(first)} on")
        )  # fmt: skip
    xs = sorted({x for points in found.values() for x in points})
    ticks = {10.0**e: style.number(10.0**e) for e in range(-4, 3) if xs[0] <= 10.0**e <= xs[-1]}
    return diagrams.curves(
        {"all": drawn},
        x=Axis("-log γ, the same for all tokens", log=True, ticks=ticks),
        y=Axis("relative error", log=True, ticks=DECADES),
        alts=[f"Relative error of a chunk. {'; '.join(ends)}."],
        source="Computed here in float32, against float64; what is no number stands at the top.",
    )


def both_directions(size: int = 116) -> Drawing:
    """The full mask as forward plus reversed minus the diagonal."""
    alt = (
        "Three squares. The lower triangle with its diagonal, which the run from first to last "
        "computes; plus the upper triangle with its diagonal, which the run from last to first "
        "computes; minus the diagonal alone, which both have counted. The sum is the full square."
    )
    s, top, gap = Sketch("directions"), 44, 40
    names = ("forward", "reversed", "diagonal", "full")
    cells = 6
    each = size / cells
    for n, name in enumerate(names):
        left = 12 + n * (size + gap)
        s.text(left + size / 2, top - 12, name, "middle")
        if n:
            s.text(left - gap / 2, top + size / 2 + 7, ("+", "−", "=")[n - 1], "middle", 22)
        for i in range(cells):
            for j in range(cells):
                if (name == "forward" and j > i) or (name == "reversed" and j < i):
                    continue
                if name == "diagonal" and i != j:
                    continue
                color = PALETTE[0] if i == j else PALETTE[1 if j < i else 2]
                s.box(left + j * each, top + i * each, each, each, color,
                      opacity=0.7 * 0.75 ** abs(i - j))  # fmt: skip
        s.box(left, top, size, size)
    s.text(12, top + size + 26, "rows: queries, columns: keys; paler is further away", size=14)
    return s.drawing(12 + 4 * size + 3 * gap + 12, top + size + 40, alt)


def timed(study: Study, part: str, **wanted) -> list[dict]:
    """The rows of a part that have a time."""
    return [r for r in study.select(part=part, **wanted) if r.get("median_ms")]


def ms(study: Study, way: str, **wanted) -> float | None:
    """The time of a way at one shape and of one work, or None if it was not measured."""
    wanted = {"B": 8, "causal": True, "work": "forward"} | wanted
    rows = timed(study, "time", way=way, **wanted)
    return rows[0]["median_ms"] if len(rows) == 1 else None


def lengths(shown: list[Study]) -> Figure | tables.Table:
    """Time of the forward pass by N, causal; a switch chooses the GPU."""
    return by_gpu(shown, _lengths)


def _lengths(study: Study) -> Figure:
    rows = timed(study, "length")
    drawn, ends = [], []
    for way in [w for w in LABELS if any(r["way"] == w for r in rows)]:
        found = {r["N"]: r["median_ms"] for r in rows if r["way"] == way}
        xs = sorted(found)
        drawn.append(Curve(LABELS[way], xs, [found[n] for n in xs], LOOKS[way]))
        ends.append(f"{LABELS[way]} {style.number(found[xs[-1]])} ms")
    copies = {r["N"]: r["floor_ms"] for r in rows}
    if copies:
        xs = sorted(copies)
        drawn.append(Curve("copy of the same bytes", xs, [copies[n] for n in xs], "floor"))
    last = style.length(max(copies)) if copies else "no length"
    return diagrams.curves(
        {"all": drawn} if drawn else {},
        x="N",
        y="forward pass [ms]",
        alts=[f"Time by length, B = 8; at N = {last}: {'; '.join(ends)}."],
        log=True,
        source=style.sentence(study.line),
    )


def table(study: Study, B: int) -> tables.Table:
    """All ways at one batch: forward, and forward and backward, in both orders."""
    works = {"forward": "forward", "forward+backward": "+ backward"}
    if not any(r.get("median_ms") for r in study.select(part="time", work="forward+backward", B=B)):
        del works["forward+backward"]  # a short live run has no time for it
    cells = []
    for causal in (True, False):
        for way, label in LABELS.items():
            rows = study.select(part="time", way=way, B=B, causal=causal)
            if not rows:
                continue
            found = {r["work"]: r for r in rows}
            texts = []
            for work in works:
                row = found.get(work, {})
                time, least = row.get("median_ms"), row.get("floor_ms")
                texts.append(style.number(time) if time else _untimed(row))
                texts.append(style.number(least / time) if time and least else "–")
            cells.append([style.order(causal), label, *texts])
    if not cells:
        return tables.Table(["nothing was measured"], [], study.line)
    heads = ["order", "way"]
    for title in works.values():
        heads += [f"{title} [ms]", "copy / time"]
    caption = f"(B, 8, 64K, 64), B = {B}; {study.line}."
    return tables.Table(heads, cells, caption, words=("way",))


def _untimed(row: dict) -> str:
    """What stands in place of a time that there is none of."""
    if (row.get("reason") or "").startswith(contenders.NO_PACKAGE):
        return "not installed"
    return row.get("status", "–")


ERRORS = {
    "o_error": ("output", "book"),
    "dq_error": ("dq", "eager"),
    "dk_error": ("dk", "sdpa-flash"),
    "dv_error": ("dv", "sdpa-cudnn"),
    "ddecay_error": ("gradient of log γ", "tiled"),
}


def accuracies(shown: list[Study]) -> Figure | tables.Table:
    """Relative errors by horizon; a switch chooses the GPU."""
    return by_gpu(shown, _accuracies)


def _accuracies(study: Study) -> Figure:
    rows = study.select(part="accuracy", status="ok")
    names = [str(r["horizon"]) if r["horizon"] else "no decay" for r in rows]
    drawn, ends = [], []
    for column, (label, look) in ERRORS.items():
        points = [(n, r[column]) for n, r in zip(names, rows, strict=True) if r[column]]
        if points:
            xs, ys = zip(*points, strict=True)
            drawn.append(Curve(label, list(xs), list(ys), look))
            ends.append(f"{label} {style.number(max(ys), 2)}")
    return diagrams.curves(
        {"all": drawn} if drawn else {},
        x=Axis("horizon [tokens]", words=True),
        y=Axis("relative error", log=True, ticks=DECADES),
        alts=[f"Relative errors against float64 by horizon; the largest are: {', '.join(ends)}."],
        source=style.sentence(study.line),
    )
