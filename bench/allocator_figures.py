"""Figures of the allocator: bytes held during a call, and the tensors that make the peak."""

import itertools
import re

from . import chunks, contenders, hardware, runner, style, tables
from .diagrams import PALETTE, Curve, curves
from .figures import AXIS, LEGEND, MARGIN, TEMPLATE, Figure, Switch, by_gpu
from .roofline import Shape
from .studies import Study, allocator, memory

MIB = 2**20
HEADS, D = 8, 64  # of the study `allocator`, with one sequence
MOST_BARS = 8  # tensors at the peak that are named one by one
ORDERS = ("bidirectional", "causal")
WORKS = {"forward": "forward", "forward+backward": "forward + backward"}


def timeline(shown: list[Study], ways: tuple[str, ...]) -> Figure | tables.Table:
    """Bytes held after each event, a curve for each way; switches choose GPU, N, order and work."""
    return by_gpu(shown, lambda study: _timeline(study, ways))


def _timeline(study: Study, ways: tuple[str, ...]) -> Figure:
    data, alts, numbers = [], {}, {}
    lengths = _lengths(study)
    cases = itertools.product(enumerate(lengths), enumerate(ORDERS), enumerate(WORKS))
    for (n, N), (o, order), (w, work) in cases:
        key, said, body = f"{n},{o},{w}", [], []
        for way in ways:
            rows = study.select(way=way, N=N, causal=bool(o), work=work, status="ok")
            if not rows:
                continue
            held, label = [r["held_bytes"] / MIB for r in rows], contenders.label(way)
            data.append(_held(way, held) | {"meta": [n, o, w], "visible": not (n or o or w)})
            said.append(f"{label} {style.number(max(held))} MiB")
            ends = map(style.number, (held[0], max(held), held[-1]))
            body.append([label, *ends, str(len(rows))])
        what = f"N = {style.length(N)}, {order}, {WORKS[work]}"
        alts[key] = f"Largest bytes held, {what}: {'; '.join(said)}."
        columns = ["", "before [MiB]", "peak [MiB]", "after [MiB]", "events"]
        numbers[key] = tables.Table(columns, body, style.sentence(study.line))
    marks = [m * 10**e for e in range(6) for m in (1, 2, 5)]
    ticks = {"type": "log", "tickvals": marks, "ticktext": [f"{m:,}" for m in marks]}
    layout = EVENTS | {"yaxis": EVENTS["yaxis"] | ticks}
    switches = [
        Switch("N", [*map(style.length, lengths)]),
        Switch("Order", list(ORDERS)),
        Switch("Work", list(WORKS.values())),
    ]
    return Figure(data, layout, alts, switches, numbers, style.sentence(study.line))


def _lengths(study: Study) -> list[int]:
    """The lengths of a study of the allocator, in its order."""
    return list(dict.fromkeys(r["N"] for r in study.rows))


EVENTS = {
    "height": 420,
    "template": TEMPLATE,
    "margin": MARGIN,
    "hovermode": "closest",
    "legend": LEGEND,
    "xaxis": AXIS | {"title": {"text": "events of the call [%]"}},
    "yaxis": AXIS | {"title": {"text": "bytes held [MiB]"}, "rangemode": "tozero"},
}


def _held(way: str, held: list[float]) -> dict:
    """A curve of what was held [MiB] after each event of a call."""
    look, label = style.look(way), contenders.label(way)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": label,
        "x": [100 * i / max(1, len(held) - 1) for i in range(len(held))],
        "y": held,
        "line": {"color": look.color, "dash": look.dash, "width": 2, "shape": "hv"},
        "hovertemplate": f"{label}: %{{y:.4g}} MiB<extra></extra>",
    }


def anew(way: str, N: int, order: str, work: str) -> Figure | tables.Table:
    """The allocator's events of one call that is made now, and what was alive at its peak.

    A table with the reason where `way` cannot be called.
    """
    contender, device = contenders.get(way), "cuda" if hardware.has_gpu() else "cpu"
    dtype = str(hardware.default_dtype()).removeprefix("torch.")
    causal = order == ORDERS[1]
    shape = Shape(1, HEADS, N, D, D, dtype, causal)
    about = {"way": way, "causal": causal, "work": work, "N": N, "dtype": dtype}
    reason = contender.available() or contender.refusal(shape)
    try:
        rows = [] if reason else allocator.of_contender(contender, shape, work, device)
    except Exception as problem:  # such as a GPU without room for the squares
        reason = runner.one_line(problem)
        runner.free(device)
    what = f"{contender.label}, N = {style.length(N)}, {order}, {WORKS[work]}"
    if reason:
        return tables.Table(["nothing was measured"], [], f"{what}: {reason}.")
    study = Study("allocator", hardware.provenance(), [about | r for r in rows], live=True)
    held = [r["held_bytes"] / MIB for r in rows]
    ends = [style.number(x) for x in (held[0], max(held), held[-1])]
    alt = f"Bytes held, {what}: {ends[0]} MiB before the call, {ends[1]} at most, {ends[2]} after."
    trace = _held(way, held) | {"meta": [], "visible": True, "showlegend": False}
    peak = {"0": peak_table(study, way, N, causal, work)}
    return Figure([trace], EVENTS, {"0": alt}, [], peak, f"{alt} {study.line}.", unfolded=True)


def at_the_peak(shown: list[Study], ways: tuple[str, ...]) -> Figure | tables.Table:
    """The tensors that are held when most is held; switches choose GPU, way, N, order and work.

    A bar is a tensor, the largest first; the table says what each is, by its size, and who asked.
    """
    return by_gpu(shown, lambda study: _at_the_peak(study, ways))


def _at_the_peak(study: Study, ways: tuple[str, ...]) -> Figure | None:
    data, alts, numbers = [], {}, {}
    measured = [w for w in ways if study.select(way=w, status="ok")]
    if not measured:
        return None
    lengths = _lengths(study)
    options = (measured, lengths, ORDERS, WORKS)
    for (i, way), (n, N), (o, order), (w, work) in itertools.product(*map(enumerate, options)):
        key = f"{i},{n},{o},{w}"
        what = f"{contenders.label(way)}, N = {style.length(N)}, {order}, {WORKS[work]}"
        numbers[key] = table = peak_table(study, way, N, bool(o), work)
        if not table.rows:
            alts[key] = f"Held at the peak, {what}: not measured."
            continue
        names, words, sizes, _ = zip(*table.rows, strict=True)
        size = [*map(float, sizes)]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "x": size,
                "y": names,
                "text": words,
                "textposition": "auto",
                "hovertemplate": "%{y}, %{text}: %{x:.4g} MiB<extra></extra>",
                "marker": {"color": style.look(way).color},
                "showlegend": False,
                "meta": [i, n, o, w],
                "visible": not (i or n or o or w),
            }
        )
        largest = max(range(1, len(size)), key=size.__getitem__, default=0)
        alts[key] = (
            f"Held at the peak, {what}: {style.number(sum(size), 4)} MiB in all, the inputs "
            f"{sizes[0]}; the largest tensor beside them has {sizes[largest]} MiB, "
            f"{words[largest]}."
        )
    layout = {
        "height": 400,
        "template": TEMPLATE,
        "margin": {"l": 84, "r": 12, "t": 8, "b": 56},
        "xaxis": AXIS | {"title": {"text": "held at the peak [MiB]"}, "rangemode": "tozero"},
        "yaxis": {"type": "category", "autorange": "reversed", "automargin": True},
    }
    switches = [
        Switch("Way", [*map(contenders.label, measured)]),
        Switch("N", [*map(style.length, lengths)]),
        Switch("Order", list(ORDERS)),
        Switch("Work", list(WORKS.values())),
    ]
    source = style.sentence(study.line)
    return Figure(data, layout, alts, switches, numbers, source, unfolded=True)


def looks_like(nbytes: int, N: int, linear: bool = False) -> str:
    """What a tensor is by its size: HEADS heads of N rows of D, or of N × N pairs.

    Sizes that are none of these are said in sizes of q in 16 bits. Of a `linear` way they are said
    in states of D × D, which for some N are as large as a byte or a float32 for each query.
    """
    rows, pairs = HEADS * N, HEADS * N * N
    q, state = 2 * rows * D, 4 * HEADS * D * (D + 1)  # a state with its sum of keys, in float32
    if linear and nbytes == 2 * HEADS * D * D:
        return "a state in 16 bits"
    known = {
        4 * pairs: "a square in float32", 2 * pairs: "a square in 16 bits",
        pairs: "a byte for each pair", 4 * N * N: "one square in float32 for all heads",
        q: "like q, in 16 bits", 2 * q: "like q, in float32",
        4 * rows: "a float32 for each query", rows: "a byte for each query",
    }  # fmt: skip
    if linear and nbytes not in known and nbytes % q:
        count = style.number(nbytes / state)
        return f"{count} {'state' if count == '1' else 'states'} in float32"
    return known.get(nbytes, f"{style.number(nbytes / q)} times q")


def peak_table(study: Study, way: str, N: int, causal: bool, work: str) -> tables.Table:
    """The tensors that were held when most was held, the largest first, in MiB."""
    rows = study.select(way=way, N=N, causal=causal, work=work, status="ok")
    columns = ["held", "by its size", "MiB", "asked for by"]
    if not rows:
        return tables.Table(columns, [], f"Nothing was measured; {study.line}.")
    peak = max(range(len(rows)), key=lambda i: rows[i]["held_bytes"])
    alive = []  # the allocator takes back by address; of equal sizes the oldest goes first
    for r in rows[1 : peak + 1]:
        if r["bytes"] > 0:
            alive.append(r)
        else:
            same = next((a for a in alive if a["bytes"] == -r["bytes"]), None)
            if same is not None:
                alive.remove(same)
    alive.sort(key=lambda r: -r["bytes"])
    before = style.number(rows[0]["held_bytes"] / MIB, 4)
    body = [["inputs", "and what earlier calls left", before, "before the call"]]
    linear = contenders.get(way).function.family == "linear"
    for r in alive[:MOST_BARS]:
        words = looks_like(r["bytes"], r["N"], linear), style.number(r["bytes"] / MIB, 4)
        body.append([f"tensor {r['event'] + 1}", *words, r["where"] or "from C++"])
    rest = alive[MOST_BARS:]
    if rest:
        total = style.number(sum(r["bytes"] for r in rest) / MIB, 4)
        body.append(["the rest", f"{len(rest)} more", total, "–"])
    what = f"{contenders.label(way)}, N = {style.length(N)}, {style.order(causal)}, {WORKS[work]}"
    caption = f"{what}, when most was held; {study.line}."
    return tables.Table(columns, body, caption, words=("by its size", "asked for by"))


def fits(shown: list[Study]) -> Figure | tables.Table:
    """The longest sequence that fits by the size of the memory; hollow where it is predicted only.

    Of the study `memory`; switches choose the GPU, the order and the work.
    """
    return by_gpu(shown, _fits)


def _fits(study: Study) -> Figure:
    rows = [r for r in study.select(kind="fits") if r["status"] in ("ok", "predicted")]
    data, alts, numbers = [], {}, {}
    for (o, order), (w, work) in itertools.product(enumerate(ORDERS), enumerate(WORKS)):
        found = [r for r in rows if (r["causal"], r["work"]) == (bool(o), work)]
        key, said, body = f"{o},{w}", [], []
        for way in dict.fromkeys(r["contender"] for r in found):
            i = memory.CONTENDERS.index(way)  # the same line on every GPU, whoever failed there
            mine = [r for r in found if r["contender"] == way]
            label, color = contenders.label(way), PALETTE[i % len(PALETTE)]
            n = [r.get("fits_n", r["predicted_n"]) for r in mine]
            symbols = [_symbol(r) for r in mine]
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines+markers",
                    "name": label,
                    "x": [r["limit_gib"] for r in mine],
                    "y": n,
                    "line": {"color": color, "width": 2, "dash": _dash(i)},
                    "marker": {"color": color, "size": 9, "symbol": symbols},
                    "hovertemplate": f"{label}, %{{x}} GiB: %{{y:,}} tokens<extra></extra>",
                    "meta": [o, w],
                    "visible": not (o or w),
                }
            )
            said.append(f"{label} {n[-1]:,} tokens in {mine[-1]['limit_gib']} GiB")
            for r in mine:
                seen = f"{r['fits_n']:,}" if "fits_n" in r else memory.batch_of(r) or "not run"
                body.append([label, str(r["limit_gib"]), f"{r['predicted_n']:,}", seen])
        what = f"{order}, {WORKS[work]}"
        alts[key] = f"Longest sequence that fits, {what}: {'; '.join(said) or 'not measured'}."
        columns = ["", "memory [GiB]", "predicted N", "fits N"]
        source = style.sentence(what, study.line)
        if any("×" in line[3] for line in body):
            source += " b × N: run as b sequences of N tokens, the whole batch."
        numbers[key] = tables.Table(columns, body, source)
    axis = AXIS | {"type": "log"}
    sizes = sorted({r["limit_gib"] for r in rows})
    lengths = [2**i for i in range(8, 25, 2)]
    marks = {"tickvals": sizes, "ticktext": [*map(str, sizes)]}
    layout = {
        "height": 420,
        "template": TEMPLATE,
        "margin": MARGIN,
        "legend": LEGEND,
        "xaxis": axis | {"title": {"text": "memory [GiB]"}} | marks,
        "yaxis": axis
        | {"title": {"text": "longest N that fits"}}
        | {"tickvals": lengths, "ticktext": [*map(style.length, lengths)]},
    }
    switches = [Switch("Order", list(ORDERS)), Switch("Work", list(WORKS.values()))]
    return Figure(data, layout, alts, switches, numbers, style.sentence(study.line))


def _symbol(row) -> str:
    """Full where that length was run into, with a dot where as many tokens were in short ones."""
    if "fits_n" in row:
        return "circle"
    return "circle-open-dot" if memory.batch_of(row) else "circle-open"


def _dash(i: int) -> str:
    """Of the i-th line: the colours come again after the last of the palette."""
    return ("solid", "dash")[i // len(PALETTE) % 2]


def ended(shown: list[Study]) -> tables.Table:
    """What of the study `memory` ended with an error after which a GPU takes no further calls.

    And the longest that had been run of the same contender before; no rows where nothing did.
    """
    body = []
    for study in shown:
        for at, row in enumerate(study.rows):
            found = LOST.search(row.get("reason") or "")
            if row["kind"] != "peak" or "work" in row or not found:
                continue
            before = [r for r in study.rows[:at] if r["contender"] == row["contender"]]
            ran = [r for r in before if "fits_n" in r or memory.batch_of(r)]
            body.append(
                [
                    study.provenance.gpu,
                    contenders.label(row["contender"]),
                    _ran(ran[-1]) if ran else "nothing",
                    found[1].strip(),
                ]
            )
    columns = ["GPU", "", "the last that was run into a limit", "what ended it"]
    caption = style.sentence(*(study.line for study in shown))
    return tables.Table(columns, body, caption, words=columns)


# how a study says that a process lost its GPU, and what CUDA said of it
LOST = re.compile(r"DeviceLost: .*?CUDA error: (.*?)(?: Search for| CUDA kernel|$)")


def _ran(row: dict) -> str:
    """A row of kind "fits" in words: the case, the size, and what fitted."""
    what = f"{style.order(row['causal'])}, {WORKS[row['work']]}, {row['limit_gib']} GiB"
    if "fits_n" in row:
        return f"{what}: {row['fits_n']:,} tokens fit"
    return f"{what}: {memory.batch_of(row, ' sequences of ')} fit"


def misses(study: Study) -> tables.Table:
    """By how much the predicted lengths miss, beside what was reserved over what was held."""
    body = []
    for r in series(study):
        off, step = (f"{style.number(100 * r[k], 2)} %" for k in ("miss", "step"))
        what = f"{style.order(r['causal'])}, {WORKS[r['work']]}"
        body.append([contenders.label(r["contender"]), what, off, step, f"{r['reserved']:.3f}"])
    columns = ["", "case", "predicted too long by", "step of the search", "reserved / held"]
    caption = f"The worst of the sizes that were run into; {study.line}."
    return tables.Table(columns, body, caption, words=("case",))


def series(study: Study) -> list[dict]:
    """For each contender, order and work that was run into a limit, how the prediction did.

    `miss` is the largest share by which it is longer than what fits, `step` the largest between
    that and the next length that was tried, `beyond` whether a prediction is longer than that one
    too, and `reserved` what the allocator had from the GPU at the longest measured peak over what
    its tensors held.
    """
    found = []
    keys = ("contender", "causal", "work")
    rows = [r for r in study.select(kind="fits", status="ok") if r["fits_n"]]
    for case in dict.fromkeys(tuple(r[k] for k in keys) for r in rows):
        about = dict(zip(keys, case, strict=True))
        mine = [r for r in rows if all(r[k] == v for k, v in about.items())]
        peak = max(study.select(kind="peak", status="ok", **about), key=lambda r: r["N"])
        found.append(
            about
            | {
                "miss": max(r["predicted_n"] / r["fits_n"] - 1 for r in mine),
                "step": max(r["fails_n"] / r["fits_n"] - 1 for r in mine),
                "beyond": any(r["predicted_n"] > r["fails_n"] for r in mine),
                "reserved": peak["peak_reserved_bytes"] / peak["peak_allocated_bytes"],
            }
        )
    return found


def by_chunk(shown: list[Study], D: int) -> Figure | tables.Table:
    """Peak memory and time of causal linear attention, all chunks at once, by chunk size.

    Of the study `chunk-size`; switches choose the GPU, and memory or time.
    """
    return by_gpu(shown, lambda study: _by_chunk(study, D))


def _by_chunk(study: Study, D: int) -> Figure | None:
    rows = sorted(study.select(form="at-once", D=D, status="ok"), key=lambda r: r["chunk"])
    if not rows:
        return None
    sizes = [r["chunk"] for r in rows]
    tokens = rows[0]["B"] * rows[0]["H"] * rows[0]["N"]
    counted = [tokens * chunks.cost(D, C).held / MIB for C in sizes]
    panels = {
        "memory": [
            Curve("counted", sizes, counted, "floor"),
            Curve("measured peak", sizes, [r["peak_MiB"] for r in rows], "eager"),
        ],
        "time": [Curve("measured time", sizes, [r["median_ms"] for r in rows], "sdpa-flash")],
    }
    alts = []
    for what, column, unit in (("Peak memory", "peak_MiB", "MiB"), ("Time", "median_ms", "ms")):
        best = min(rows, key=lambda r: r[column])
        value = style.number(best[column])
        alts.append(f"{what} by chunk size: least at C = {best['chunk']}, {value} {unit}.")
    source = style.sentence(study.line)
    titles = ["memory held [MiB]", "time [ms]"]
    return curves(panels, x="chunk size C", y=titles, alts=alts, log=True, source=source)
