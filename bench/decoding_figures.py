"""Figures of chapter 10: cache and state as a drawing, what is kept, time by length, drift.

They use the format and the look of `bench.figures` and `bench.diagrams`.
"""

from . import diagrams, style, tables
from .diagrams import PALETTE, Curve, Drawing, Sketch
from .figures import Figure, by_gpu
from .studies import Study

LABELS = {
    "state": "state (this book)",
    "state-eager": "state, eager PyTorch",
    "cache-flash": "cache, SDPA flash",
    "cache-cudnn": "cache, SDPA cuDNN",
    "cache-math": "cache, SDPA math",
}
LOOKS = {
    "state": "book",
    "state-eager": "eager",
    "cache-flash": "sdpa-flash",
    "cache-cudnn": "sdpa-cudnn",
    "cache-math": "tiled",
}
ROUNDINGS = {
    "float32": "book",
    "float16": "sdpa-cudnn",
    "bfloat16": "sdpa-flash",
    "stochastic": "eager",
}
ROUNDING_LABELS = {"stochastic": "bfloat16, stochastic"}


def cache_and_state(tokens: int = 7) -> Drawing:
    """What one step reads and writes: a cache of `tokens` tokens, and a state."""
    alt = (
        f"Above, a cache: the query of token {tokens + 1} reads the keys and values of all "
        f"{tokens} tokens before it, and those of token {tokens + 1} are added, so that the next "
        "step reads one more. Below, a state: the query reads one matrix S and one vector z, "
        "which were changed in place by the newest key and value; the next step reads as much."
    )
    s, size, left, top = Sketch("cache"), 34, 60, 62
    end = left + (tokens + 1) * size
    s.text(8, 24, "Cache: grows by one key and one value a token", size=17)
    for row, name in enumerate("kv"):
        y = top + row * (size + 6)
        s.text(left - 14, y + 23, name, "end")
        for t in range(tokens + 1):
            color = PALETTE[0 if t == tokens else 1]
            s.box(left + t * size, y, size - 5, size - 3, color, str(t + 1), opacity=0.55)
    bottom = top + 2 * (size + 6) + 6
    s.box(left + tokens * size - 28, bottom + 44, 84, 36, PALETTE[2], f"q → o ({tokens + 1})")
    for t in range(tokens + 1):
        s.arrow(left + t * size + 14, bottom - 4, left + tokens * size + 4 + t, bottom + 40)

    low = bottom + 128
    s.text(8, low, "State: as large after a million tokens", size=17)
    s.box(left, low + 20, 96, 80, PALETTE[1], "S", opacity=0.4)
    s.box(left + 104, low + 20, 22, 80, PALETTE[1], "z", opacity=0.4)
    s.box(left, low + 136, 126, 36, PALETTE[0], f"k, v ({tokens + 1})", opacity=0.55)
    s.arrow(left + 63, low + 134, left + 63, low + 106)
    s.text(left + 74, low + 126, "add", size=14)
    s.box(left + tokens * size - 28, low + 44, 84, 36, PALETTE[2], f"q → o ({tokens + 1})")
    s.arrow(left + 130, low + 62, left + tokens * size - 34, low + 62)
    return s.drawing(max(end + 28, 440), low + 184, alt)


def kept(models: dict[str, tuple[int, int, int]], lengths: list[int], memory: float) -> Figure:
    """What all layers keep of one sequence, in GiB; `memory` of a GPU in bytes, for comparison.

    `models` maps a name to (layers, key heads, D). Computed, not measured: the cache in two bytes
    an element, the state in four.
    """
    panels, alts = {}, []
    for name, (layers, heads, D) in models.items():
        per_token = layers * heads * 2 * 2 * D
        state = layers * heads * 4 * (D * D + D)
        panels[name] = [
            Curve("cache", lengths, [n * per_token / 2**30 for n in lengths], "sdpa-flash"),
            Curve("state", lengths, [state / 2**30] * len(lengths), "book"),
            Curve("memory of the GPU", lengths, [memory / 2**30] * len(lengths), "floor", False),
        ]
        alts.append(
            f"{name}: a cache takes {style.number(lengths[0] * per_token / 2**30)} GiB at "
            f"{style.length(lengths[0])} tokens and {style.number(lengths[-1] * per_token / 2**30)}"
            f" GiB at {style.length(lengths[-1])}; a state takes "
            f"{style.number(state / 2**30)} GiB at every length."
        )
    return diagrams.curves(
        panels,
        x="tokens so far",
        y="kept of one sequence [GiB]",
        alts=alts,
        switch="Model",
        log=True,
        source="Computed: the cache in two bytes an element, the state in four.",
    )


def token_times(shown: list[Study], column: str = "device_ms") -> Figure | tables.Table:
    """Time of one token by the length before it; switches choose GPU and batch."""
    return by_gpu(shown, lambda study: _token_times(study, column))


def _token_times(study: Study, column: str) -> Figure:
    panels, alts, numbers = {}, [], []
    tokens = [r for r in study.select(what="token", status="ok") if r.get(column)]
    for B in sorted({r["B"] for r in tokens if r["N"]}):
        rows = [r for r in tokens if r["B"] == B]
        lengths = sorted({r["N"] for r in rows if r["N"]})
        drawn, ends, cells = [], [], {n: [style.length(n)] for n in lengths}
        there = [way for way in LABELS if any(r["way"] == way for r in rows)]
        for way in there:
            found = {r["N"]: r[column] for r in rows if r["way"] == way}
            if None in found:  # a step of the state is as long at every length
                found = dict.fromkeys(lengths, found[None])
            xs = sorted(found)
            drawn.append(Curve(LABELS[way], xs, [found[n] for n in xs], LOOKS[way]))
            last = f"{style.number(found[xs[-1]])} ms at N = {style.length(xs[-1])}"
            ends.append(f"{LABELS[way]} {last}")
            for n in lengths:
                cells[n].append(style.number(found.get(n)))
        copies = {r["N"]: r["copy_ms"] for r in rows if r["N"]}
        xs = sorted(copies)
        drawn.append(Curve("copy of the cache's bytes", xs, [copies[n] for n in xs], "floor"))
        panels[f"B = {B}"] = drawn
        alts.append(f"Time of one token, B = {B}: {'; '.join(ends)}.")
        head = ["N", *(LABELS[w] for w in there)]
        caption = f"Time of one token [ms], B = {B}; {study.line}."
        numbers.append(tables.Table(head, list(cells.values()), caption))
    y = "time of one token [ms]"
    return _curves(study, panels, alts, numbers, x="tokens so far", y=y, switch="Batch")


def batches(shown: list[Study]) -> Figure | tables.Table:
    """Time of one step of the state by batch, beside a copy of its bytes."""
    return by_gpu(shown, _batches)


def _batches(study: Study) -> Figure:
    drawn, ends, columns = [], [], {}
    for way in ("state", "state-eager"):
        rows = study.select(what="token", way=way, status="ok")
        if not rows:
            continue
        Bs = [r["B"] for r in rows]
        drawn.append(Curve(LABELS[way], Bs, [r["device_ms"] for r in rows], LOOKS[way]))
        columns[LABELS[way]] = {r["B"]: r["device_ms"] for r in rows}
        ends.append(f"{LABELS[way]} {style.number(rows[-1]['device_ms'])} ms at B = {Bs[-1]}")
        if way == "state":
            floor = [r["copy_ms"] for r in rows]
            drawn.append(Curve("copy of the same bytes", Bs, floor, "floor"))
            columns["copy"] = dict(zip(Bs, floor, strict=True))
    alts = [f"Time of one step by batch: {'; '.join(ends)}."]
    body = [
        [str(B), *(style.number(columns[c].get(B)) for c in columns)]
        for B in sorted({B for c in columns.values() for B in c})
    ]
    numbers = [tables.Table(["B", *columns], body, f"Time of one step [ms]; {study.line}.")]
    panels = {"all": drawn} if drawn else {}
    return _curves(study, panels, alts, numbers, x="sequences B", y="time of one step [ms]")


ERRORS = {"output_error": "output", "z_error": "z", "s_error": "S"}


def drifts(shown: list[Study]) -> Figure | tables.Table:
    """Relative error of a rounded state by the tokens that it has seen."""
    return by_gpu(shown, _drifts)


def _drifts(study: Study) -> Figure:
    panels, alts, numbers = {}, [], []
    rows = study.select(what="drift", status="ok")
    for column, name in ERRORS.items() if rows else ():
        drawn, ends = [], []
        lengths = sorted({r["N"] for r in rows})
        cells = {n: [style.length(n)] for n in lengths}
        there = [to for to in ROUNDINGS if any(r["rounding"] == to for r in rows)]
        for to in there:
            found = {r["N"]: r[column] for r in rows if r["rounding"] == to}
            label = ROUNDING_LABELS.get(to, to)
            xs = sorted(found)
            drawn.append(Curve(label, xs, [found[n] for n in xs], ROUNDINGS[to]))
            ends.append(f"{label} {style.number(found[xs[-1]], 2)}")
            for n in lengths:
                cells[n].append(style.number(found.get(n), 2))
        panels[f"of {name}"] = drawn
        last = style.length(lengths[-1])
        alts.append(f"Relative error of {name} after {last} tokens: {', '.join(ends)}.")
        heads = [ROUNDING_LABELS.get(to, to) for to in there]
        caption = f"Relative error of {name}; {study.line}."
        numbers.append(tables.Table(["N", *heads], list(cells.values()), caption))
    y = "relative error"
    return _curves(study, panels, alts, numbers, x="tokens so far", y=y, switch="Error")


def _curves(study: Study, panels, alts, numbers, **words) -> Figure:
    source = style.sentence(study.line)
    figure = diagrams.curves(panels, alts=alts, log=True, source=source, **words)
    figure.numbers |= {str(i): table for i, table in enumerate(numbers)}
    return figure
