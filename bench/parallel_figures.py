"""Figures of chapter 13: a sequence that is cut over ranks, measured and on paper.

They use the format and the look of `bench.figures` and `bench.diagrams`.
"""

import torch

from . import diagrams, scaling, studies, style, tables
from .claims import claim
from .diagrams import PALETTE, Axis, Curve, Drawing, Sketch
from .errors import BenchError
from .figures import Figure, by_gpu
from .studies import Study

ORDERS = [(c, w) for c in (False, True) for w in ("forward", "forward+backward")]
WAYS = {
    "no-overlap": "without overlap",
    "both": "with overlap",
    "no-check": "with overlap, without the header",
}
AS_IT_COMES = "no-overlap"
WAY_LOOKS = {"both": "sdpa-flash", "no-overlap": "book", "no-check": "sdpa-cudnn"}
RANKS = [2**i for i in range(11)]  # 1 … 1,024
PREDICTED_US = 20.0  # an exchange of two ranks, by chapter 13
SHORT, LONG, LONGEST = 2**16, 2**22, 2**24  # tokens that claims are about
PIECE = 2**21  # tokens of a rank from which on weak scaling is claimed
SENT = {
    "state": ("states (this chapter)", "book"),
    "heads": ("q, k, v and o, by heads", "sdpa-cudnn"),
    "ring": ("k and v around a ring", "sdpa-flash"),
}


def name(causal: bool, work: str) -> str:
    return f"{style.order(causal)}, {style.work_name(work)}"


def cut_sequence(ranks: int = 4) -> Drawing:
    """One sequence on `ranks` GPUs: what each computes, and what crosses between them."""
    alt = (
        f"A sequence in {ranks} pieces, one for each rank. Each rank first sums the state of its "
        "piece. The states of all ranks are exchanged. Each rank adds those of the ranks before "
        "it, none on rank 0, and then computes the outputs of its piece from that sum."
    )
    s, width, left, gap = Sketch("pieces"), 150, 8, 14
    bar, low = 174, 274
    for i in range(ranks):
        x = left + i * (width + gap)
        middle = x + width / 2
        s.text(middle, 20, f"rank {i}", "middle", bold=True)
        s.box(x, 34, width, 34, PALETTE[i], f"q, k, v of piece {i}", 15, opacity=0.4)
        s.arrow(middle, 70, middle, 96)
        s.box(middle - 38, 98, 76, 34, PALETTE[i], f"S{i}, z{i}", opacity=0.4)
        s.arrow(middle, 134, middle, bar - 2)
        before = " + ".join(f"S{j}" for j in range(i)) or "nothing"
        s.arrow(middle, bar + 36, middle, low - 42)
        s.text(middle, low - 22, before, "middle")
        s.arrow(middle, low - 14, middle, low)
        s.box(x, low + 2, width, 34, PALETTE[i], f"o of piece {i}", 15, opacity=0.4)
    whole = ranks * (width + gap) - gap
    s.box(left, bar, whole, 34, PALETTE[7], "exchange: S and z of each head, of any length", 15)
    return s.drawing(whole + 2 * left, low + 46, alt)


def bytes_sent(ranks: list[int], lengths: list[int]) -> Figure:
    """What a rank sends in one causal forward pass, by length; a switch chooses the ranks."""
    panels, alts = {}, []
    for n in ranks:
        drawn = []
        for way, (label, look) in SENT.items():
            if way == "heads" and n > 8:  # there are no more ranks than heads
                continue
            sent = [scaling.sent_bytes(N, n, way) / 2**20 for N in lengths]
            drawn.append(Curve(label, lengths, sent, look))
        panels[f"{n} ranks"] = drawn
        ends = [f"{c.label} {style.number(c.y[-1])} MiB" for c in drawn]
        alts.append(f"{n} ranks, {style.length(lengths[-1])} tokens: {'; '.join(ends)}.")
    return diagrams.curves(
        panels,
        x="tokens of the sequence",
        y="sent by each rank [MiB]",
        alts=alts,
        switch="Ranks",
        log=True,
        source="Computed, for 8 heads of 64: states in four bytes an element, all else in two.",
    )


def measured(directory=None) -> Study:
    """The study on several GPUs: measured here if there are some, else as recorded, or nothing."""
    found = studies.recorded("sequence-parallel", directory)
    if torch.cuda.device_count() > 1:
        try:
            found.insert(0, studies.study("sequence-parallel", directory))
        except BenchError:
            pass  # the record says more than nothing
    several = (s for s in found if s.select(what="call", ranks=2, status="ok"))
    return next(several, None) or studies.nothing("sequence-parallel")


def gpu(study: Study) -> str:
    return study.provenance.gpu.removeprefix("NVIDIA ")


def strong(study: Study, ranks: int = 2, column: str = "device_ms") -> dict:
    """(causal, work, N, way) -> how many times faster `ranks` GPUs are than `linear_attention`."""
    found = {}
    for row in study.select(what="call", ranks=ranks, status="ok"):
        shape = {k: row[k] for k in ("causal", "work", "N")}
        one = study.select(what="call", way="one-gpu", status="ok", **shape)
        if one:
            found[(*shape.values(), row["way"])] = one[0][column] / row[column]
    return found


def weak(study: Study, ranks: int = 2, column: str = "device_ms") -> dict:
    """(causal, work, tokens of a rank, way) -> time on `ranks` GPUs over that of a piece on one."""
    found = {}
    for row in study.select(what="call", ranks=ranks, status="ok"):
        shape = {"causal": row["causal"], "work": row["work"], "N": row["N"] // ranks}
        one = study.select(what="call", way="one-gpu", status="ok", **shape)
        if one:
            found[(*shape.values(), row["way"])] = row[column] / one[0][column]
    return found


# --- figures -------------------------------------------------------------------------------------


def _lengths(title: str, lengths) -> Axis:
    lengths = sorted(set(lengths))
    ticks = {n: style.length(n) for n in lengths[:: 2 if len(lengths) > 5 else 1]}
    return Axis(title, True, ticks, text=style.length)


def exchanges(shown: list[Study]) -> Figure | tables.Table:
    """An exchange of two ranks alone, by what each sends; a switch chooses the GPU."""
    return by_gpu(shown, _exchanges)


def _exchanges(study: Study) -> Figure:
    drawn, ends, sizes = [], [], set()
    for op, look, row_look in (
        ("all-gather", "book", "sdpa-cudnn"), ("all-reduce", "sdpa-flash", "ranks-4"),
    ):  # fmt: skip
        rows = study.select(what="exchange", op=op, ranks=2, status="ok")
        for label, column, its in (
            (op, "device_us", look),
            (f"{op}, in a row", "host_us", row_look),
        ):
            at = {r["bytes"]: r[column] for r in rows if r.get(column)}
            if at:
                drawn.append(Curve(label, list(at), list(at.values()), its))
                few, many = min(at), max(at)
                ends.append(f"{label} {style.number(at[few])} to {style.number(at[many])} µs")
                sizes |= set(at)
    alt = ""
    if sizes:
        span = f"from {_size(min(sizes))} to {_size(max(sizes))} of each rank"
        alt = f"Time of an exchange, {span}: {'; '.join(ends)}."
    return diagrams.curves(
        {"all": drawn} if drawn else {},
        x=Axis("sent by each rank", True, {n: _size(n) for n in sorted(sizes)}, text=_size),
        y=Axis("time [µs]", True, {10: "10", 20: "20", 50: "50", 100: "100", 200: "200"}),
        alts=[alt], source=style.sentence(study.line),
    )  # fmt: skip


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e6:.2g} MB"


def speedups(shown: list[Study], ranks: int = 2) -> Figure | tables.Table:
    """How many times faster two GPUs are, by length, with and without overlap and header."""
    return by_gpu(shown, lambda study: _by_way(
        strong(study, ranks), study, x="tokens of the sequence",
        y=f"times as fast on {ranks} GPUs as on one", said="Times as fast", level=ranks,
        label="as many times as GPUs",
    ))  # fmt: skip


def grown(shown: list[Study], ranks: int = 2) -> Figure | tables.Table:
    """Weak scaling: what a second piece of the same length costs, by that length."""
    return by_gpu(shown, lambda study: _by_way(
        weak(study, ranks), study, x="tokens of each rank",
        y="time / that of one piece on one GPU", said="Time over that of one piece",
        level=1, label="as long as one piece",
    ))  # fmt: skip


def _by_way(found: dict, study: Study, *, x, y, said, level, label) -> Figure:
    panels, alts = {}, []
    for causal, work in ORDERS:
        drawn, ends = [], []
        for way, words in WAYS.items():
            at = {k[2]: v for k, v in found.items() if (k[0], k[1], k[3]) == (causal, work, way)}
            if at:
                drawn.append(Curve(words, list(at), list(at.values()), WAY_LOOKS[way]))
                ends.append(f"{words} {style.number(at[max(at)])} at {style.length(max(at))}")
        if drawn:
            places = sorted({n for curve in drawn for n in curve.x})
            drawn.append(Curve(label, places, [level] * len(places), "floor", False))
            panels[name(causal, work)] = drawn
            alts.append(f"{said}, {name(causal, work)}: {'; '.join(ends)}.")
    return diagrams.curves(
        panels, x=_lengths(x, [k[2] for k in found]), y=Axis(y, zero=level != 1), alts=alts,
        switch="Show", source=style.sentence(study.line),
    )  # fmt: skip


def times(shown: list[Study]) -> Figure | tables.Table:
    """Time by length on one GPU and on more, of the GPU and in a row; a switch chooses the GPU.

    With more of them, the function is called as it comes.
    """
    return by_gpu(shown, _times)


CLOCKS = {"device_ms": "", "eager_ms": ", in a row"}
CLOCK_LOOKS = {
    (1, "device_ms"): "sdpa-flash", (2, "device_ms"): "book",
    (1, "eager_ms"): "sdpa-cudnn", (2, "eager_ms"): "eager",
}  # fmt: skip


def _times(study: Study) -> Figure:
    panels, alts, lengths = {}, [], set()
    for causal, work in ORDERS:
        rows = study.select(what="call", causal=causal, work=work, status="ok")
        drawn, ends = [], []
        for n in sorted({r["ranks"] for r in rows}):
            for column, said in CLOCKS.items():
                way = "one-gpu" if n == 1 else AS_IT_COMES
                at = {r["N"]: r[column] for r in rows if r["ranks"] == n and r["way"] == way}
                if not at:
                    continue
                label = f"{n} GPU{'s' * (n > 1)}{said}"
                look = CLOCK_LOOKS.get((n, column), f"{n} {column}")
                drawn.append(Curve(label, list(at), list(at.values()), look))
                few, many = (f"{style.number(at[f(at)])} ms at {style.length(f(at))}"
                             for f in (min, max))  # fmt: skip
                ends.append(f"{label} {few}, {many}")
                lengths |= set(at)
        if drawn:
            panels[name(causal, work)] = drawn
            alts.append(f"Time, {name(causal, work)}: {'; '.join(ends)}.")
    ticks = {t: style.number(t) for t in (0.1, 0.3, 1, 3, 10, 30, 100)}
    return diagrams.curves(
        panels, x=_lengths("tokens of the sequence", lengths), y=Axis("time [ms]", True, ticks),
        alts=alts, switch="Show", source=style.sentence(study.line),
    )  # fmt: skip


# --- tables --------------------------------------------------------------------------------------


def at_length(study: Study, N: int = LONG, ranks: int = 2) -> tables.Table:
    """One length on one GPU and on two of them, in each way, by both clocks."""
    cells = []
    for causal, work in ORDERS:
        shape = {"what": "call", "N": N, "causal": causal, "work": work, "status": "ok"}
        one = study.select(way="one-gpu", **shape)
        for n, way in ((1, "one-gpu"), (ranks, "no-overlap"), (ranks, "both")):
            for r in study.select(way=way, ranks=n, **shape):
                cells.append([
                    name(causal, work) if n == 1 else "",
                    "1 GPU" if n == 1 else f"{n}, {WAYS[way]}",
                    *(x for column in CLOCKS for x in (
                        style.number(r[column]),
                        style.number(one[0][column] / r[column]) if one and n > 1 else "",
                    )),
                    style.number(r["spread"]),
                ])  # fmt: skip
    head = ["order", "on", "GPU's time [ms]", "times as fast", "in a row [ms]",
            "times as fast, in a row", "spread"]  # fmt: skip
    return tables.Table(head, cells, f"{style.length(N)} tokens; {study.line}.",
                        words=("order", "on"))  # fmt: skip


def host(shown: list[Study], N: int = SHORT) -> tables.Table:
    """What a call in a row takes at a short length, and what of that can be measured alone."""
    call = {"what": "call", "N": N, "causal": False, "work": "forward", "status": "ok"}
    alone = {"what": "exchange", "ranks": 2, "status": "ok"}
    lines = [
        ("the GPU's time of a call on one GPU", call | {"way": "one-gpu"}, "device_ms"),
        ("a call on one GPU", call | {"way": "one-gpu"}, "eager_ms"),
        ("on a group of one rank", call | {"what": "piece"}, "eager_ms"),
        *((f"on 2 GPUs, {w}", call | {"ranks": 2, "way": k}, "eager_ms") for k, w in WAYS.items()),
        ("an exchange alone", alone | {"op": "all-reduce"}, "host_us"),
        ("the header alone", alone | {"op": "agreement"}, "host_us"),
    ]
    cells = []
    for label, query, column in lines:
        rows = [study.select(**query) for study in shown]
        values = [r[0].get(column) if r else None for r in rows]
        if any(values):
            scale = 1e3 if column.endswith("ms") else 1
            cells.append([label, *(style.number(v and v * scale) for v in values)])
    lines = "; ".join(study.line for study in shown)
    caption = f"In a row, µs, {style.length(N)} tokens, {name(False, 'forward')}; {lines}."
    return tables.Table(["", *map(gpu, shown)], cells, caption)


def constants(shown: list[Study]) -> tables.Table:
    """The constants of the model, as two GPUs have them."""
    cells = []
    for study in shown:
        for order in ORDERS:
            m = scaling.of(study, *order)
            if m:
                values = 1e3 * m.fixed_ms, 1e6 * m.token_ms, 1e3 * m.exchange_ms, 1e3 * m.state_ms
                cells.append([f"{gpu(study)}, {name(*order)}", *map(style.number, values)])
    lines = "; ".join(study.line for study in shown)
    return tables.Table(["", "t0 [µs]", "t1 [ns]", "x [µs]", "y [µs]"], cells,
                        f"Measured, with 8 heads of 64; {lines}.")  # fmt: skip


# --- claims --------------------------------------------------------------------------------------


def _range(found, unit="") -> str:
    low, high = (style.number(f(found)) for f in (min, max))
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


def _at(found: dict, N: int, way: str) -> list[float]:
    """The values of all orders at a length; none unless every order has one."""
    values = [found.get((*order, N, way)) for order in ORDERS]
    return [] if None in values else values


def claim_exchange(study: Study):
    rows = [r for r in study.select(what="exchange", ranks=2, status="ok") if r.get("device_us")]
    least = min((r["bytes"] for r in rows), default=None)
    found = [r["device_us"] for r in rows if r["bytes"] == least]
    return claim(
        "Two GPUs exchange the states of 8 heads in less than the 20 µs that we predicted",
        max(found) < PREDICTED_US if found else None,
        _range(found, " µs") if found else "not measured",
        study,
    )


def claim_strong(study: Study, way: str):
    """By both clocks; with overlap the page leaves it open: it depends on the GPU."""
    found, row = (_at(strong(study, column=c), LONG, way) for c in CLOCKS)
    return claim(
        "By the GPUs' time and in a row, two are at least 1.8 times as fast at 4M tokens as "
        f"linear_attention on one, in both orders, forward and with backward, {WAYS[way]}",
        min(found + row) >= 1.8 if found else None,
        f"{_range(found)} times as fast; in a row {_range(row)} times" if found else "not measured",
        study,
        expected=True if way == AS_IT_COMES else None,
    )


def claim_overlap(study: Study):
    found = strong(study)
    pairs = {k: x / found[(*k[:3], "no-overlap")] for k, x in found.items()
             if k[3] == "both" and (*k[:3], "no-overlap") in found}  # fmt: skip
    return claim(
        "By the GPUs' time, overlap makes a call on two of them faster, at some length at least",
        max(pairs.values()) > 1 if pairs else None,
        f"{_range(pairs.values())} times as fast with it as without" if pairs else "not measured",
        study,
        expected=False,
    )


def claim_kept(study: Study):
    call = {"N": LONG, "causal": True, "work": "forward+backward", "status": "ok"}
    one = study.select(what="call", way="one-gpu", **call)
    piece = study.select(what="piece", **call)
    two = study.select(what="call", way="no-overlap", ranks=2, **call)
    known = one and piece and two
    return claim(
        "Causal and with backward, a group of one rank is faster than linear_attention, and two "
        "ranks are less than twice as fast as that",
        known and 2 * two[0]["device_ms"] > piece[0]["device_ms"] < one[0]["device_ms"],
        f"one rank {style.number(one[0]['device_ms'] / piece[0]['device_ms'])} times as fast as "
        f"linear_attention, two {style.number(piece[0]['device_ms'] / two[0]['device_ms'])} times "
        "as fast as one rank"
        if known
        else "not measured",
        study,
    )


def claim_weak(study: Study, way: str):
    found = [x for (_, _, N, w), x in weak(study).items() if N >= PIECE and w == way]
    return claim(
        "From 2M tokens a GPU on, a second piece costs less than 5 percent of the GPUs' time, "
        f"{WAYS[way]}",
        max(found) < 1.05 if found else None,
        f"{_range(found)} times the time of one piece" if found else "not measured",
        study,
        expected=way == AS_IT_COMES,
    )


def claim_model(study: Study):
    found = {way: _off(study, way) for way in ("no-overlap", "both")}
    return claim(
        "The model is within 15 percent of the time of two GPUs from 1M tokens on, without overlap",
        max(abs(x - 1) for x in found["no-overlap"]) < 0.15 if found["no-overlap"] else None,
        "; ".join(f"measured / predicted {_range(x)} {WAYS[way]}" for way, x in found.items() if x)
        or "not measured",
        study,
    )


def _off(study: Study, way: str) -> list[float]:
    """Measured over predicted, of all orders and lengths from 1M tokens on."""
    found = []
    for causal, work in ORDERS:
        model = scaling.of(study, causal, work)
        call = {"what": "call", "ranks": 2, "way": way, "causal": causal, "work": work}
        for r in study.select(status="ok", **call) if model else ():
            if r["N"] >= 2**20:
                found.append(r["device_ms"] / model.time_ms(r["N"], 2, "rounds"))
    return found


def claim_host(study: Study):
    found = strong(study, column="eager_ms")
    short = [x for k, x in found.items() if k[2] == SHORT]
    lengths = sorted({k[2] for k in found if k[3] == AS_IT_COMES})
    slower = [n for n in lengths if min(_at(found, n, AS_IT_COMES), default=0) < 1]
    ahead = [n for n in lengths if n > max(slower, default=0)]
    return claim(
        "In a row, two GPUs are slower than one at 64K tokens, in every order and way",
        max(short) < 1 if short else None,
        f"{_range(short)} times as fast; without overlap ahead in all four "
        + (f"from {style.length(ahead[0])} tokens on" if ahead else "at no length")
        if short
        else "not measured",
        study,
    )


def claim_header(study: Study):
    call = {"what": "call", "ranks": 2, "N": SHORT, "status": "ok"}
    found = {column: [] for column in CLOCKS}
    for causal, work in ORDERS:
        order = {"causal": causal, "work": work}
        with_, without = (study.select(way=w, **call, **order) for w in ("both", "no-check"))
        if with_ and without:
            for column, its in found.items():
                its.append(with_[0][column] / without[0][column])
    device, row = found.values()
    return claim(
        "The header costs the hosts and not the GPUs: without it, calls in a row of 64K tokens "
        "gain more than a fifth, and the GPUs less than a twentieth",
        min(row) > 1.2 and max(device) < 1.05 if row else None,
        f"in a row {_range(row)} times as fast without it, on the GPU {_range(device)} times"
        if row
        else "not measured",
        study,
    )


def claim_memory(study: Study):
    """The page leaves it open: it depends on the GPU."""
    call = {"what": "call", "N": LONGEST, "work": "forward+backward"}
    one = [r["status"] for r in study.select(way="one-gpu", **call)]
    two = [r["status"] for r in study.select(way=AS_IT_COMES, ranks=2, **call)]
    known = one and two and not {*one, *two} - {"ok", "oom"}
    return claim(
        "With backward, 16M tokens fit on two GPUs and not on one",
        set(one) == {"oom"} and set(two) == {"ok"} if known else None,
        "; ".join(
            f"{label} {'they fit' if set(found) == {'ok'} else 'they do not fit'}"
            for label, found in (("on one GPU", one), ("on two", two))
        )
        if known
        else "not measured",
        study,
        expected=None,
    )


def claims(study: Study) -> list:
    """All that the chapter claims of two GPUs, in its order."""
    return [
        claim_exchange(study),
        *(claim_strong(study, way) for way in ("no-overlap", "both")),
        claim_overlap(study), claim_kept(study),
        *(claim_weak(study, way) for way in ("no-overlap", "both")),
        claim_model(study), claim_host(study), claim_header(study), claim_memory(study),
    ]  # fmt: skip


def verdicts(shown: list[Study]) -> tables.Table:
    """Each claim on each GPU, side by side."""
    by_study = [claims(study) for study in shown]
    cells = [
        [same[0].sentence, *(f"{c.verdict}: {c.evidence}" for c in same)]
        for same in zip(*by_study, strict=True)
    ]
    head = ["two of them", *map(gpu, shown)]
    lines = "; ".join(study.line for study in shown)
    return tables.Table(head, cells, f"The claims, GPU by GPU; {lines}.", words=tuple(head))


# --- more GPUs than there are --------------------------------------------------------------------


def projected(shown: list[Study], lengths: list[int]) -> Figure | tables.Table:
    """Times faster by the number of GPUs, causal and forward; switches choose GPU and length.

    Computed, with what two GPUs have measured.
    """
    return by_gpu(shown, lambda study: _projected(study, lengths))


WAY_LABELS = {
    "rounds": ("log2(R) rounds", "book"),
    "at once": ("one exchange, R states arrive", "sdpa-cudnn"),
    "in a row": ("R − 1 exchanges in a row", "sdpa-flash"),
}


def _projected(study: Study, lengths: list[int]) -> Figure:
    model = scaling.of(study, True, "forward")
    panels, alts = {}, []
    for N in lengths if model else ():
        drawn = [Curve("as many times as GPUs", RANKS, [float(n) for n in RANKS], "floor", False)]
        for way, (label, look) in WAY_LABELS.items():
            drawn.append(Curve(label, RANKS, [model.speedup(N, n, way) for n in RANKS], look))
        panels[f"{style.length(N)} tokens"] = drawn
        best = {c.label: max(c.y) for c in drawn[1:]}
        words = "; ".join(f"{k} at most {style.number(v)} times" for k, v in best.items())
        alts.append(f"Speedup on up to {RANKS[-1]} GPUs at {style.length(N)} tokens: {words}.")
    ticks = {n: str(n) for n in RANKS[::2]}
    return diagrams.curves(
        panels,
        x=Axis("GPUs", True, ticks),
        y=Axis("times faster than one GPU", True, {10.0**e: str(10**e) for e in range(4)}),
        alts=alts,
        switch="Length",
        source=style.sentence(f"computed for more than two GPUs, with constants {study.line}"),
    )
