"""Figures of chapter 13: a sequence that is cut over ranks, measured and on paper.

They use the format and the look of `bench.figures` and `bench.diagrams`.
"""

import torch

from . import diagrams, scaling, studies, style, tables
from .claims import claim
from .diagrams import PALETTE, Axis, Curve, Drawing, Sketch
from .errors import BenchError
from .figures import Figure, by_gpu
from .results import Record
from .studies import Study

ORDERS = [(c, w) for c in (False, True) for w in ("forward", "forward+backward")]
WAYS = {"both": "as it comes", "no-overlap": "without overlap", "no-check": "without the agreement"}
WAY_LOOKS = {"both": "book", "no-overlap": "sdpa-flash", "no-check": "sdpa-cudnn"}
RANKS = [2**i for i in range(11)]  # 1 … 1,024
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


def measured(directory=None) -> Study | None:
    """The study on several GPUs: measured here if there are some, else as recorded, or None."""
    if torch.cuda.device_count() > 1:
        try:
            return studies.study("sequence-parallel", directory)
        except BenchError:
            return None
    found = studies.recorded("sequence-parallel", directory)
    return next((s for s in found if s.select(what="call", ranks=2, status="ok")), None)


def times(shown: list[Study]) -> Figure | tables.Table:
    """Time by length on one GPU and on more; switches choose GPU, order and work."""
    return by_gpu(shown, _times)


def _times(study: Study) -> Figure | tables.Table:
    panels, alts = {}, []
    for causal, work in ORDERS:
        rows = study.select(what="call", causal=causal, work=work, status="ok")
        drawn, ends = [], []
        for n in sorted({r["ranks"] for r in rows}):
            way = "one-gpu" if n == 1 else "both"
            found = {r["N"]: r["device_ms"] for r in rows if r["ranks"] == n and r["way"] == way}
            if not found:
                continue
            label = "1 GPU, linear_attention" if n == 1 else f"{n} GPUs"
            look = "sdpa-flash" if n == 1 else "book" if n == 2 else f"ranks-{n}"
            drawn.append(Curve(label, list(found), list(found.values()), look))
            last = max(found)
            ends.append(f"{label} {style.number(found[last])} ms at {style.length(last)} tokens")
        if drawn:
            panels[name(causal, work)] = drawn
            alts.append(f"{name(causal, work)}: {'; '.join(ends)}.")
    return diagrams.curves(
        panels, x="tokens of the sequence", y="time [ms]", alts=alts, switch="Show", log=True,
        source=style.sentence(study.line),
    )  # fmt: skip


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
    """(causal, work, tokens of a rank) -> time on `ranks` GPUs over that of a piece on one."""
    found = {}
    for row in study.select(what="call", ranks=ranks, way="both", status="ok"):
        shape = {"causal": row["causal"], "work": row["work"], "N": row["N"] // ranks}
        one = study.select(what="call", way="one-gpu", status="ok", **shape)
        if one:
            found[tuple(shape.values())] = row[column] / one[0][column]
    return found


def speedups(shown: list[Study], ranks: int = 2) -> Figure | tables.Table:
    """How many times faster two GPUs are, by length, as called and without overlap or check."""
    return by_gpu(shown, lambda study: _speedups(study, ranks))


def _speedups(study: Study, ranks: int) -> Figure | tables.Table:
    found, panels, alts = strong(study, ranks), {}, []
    for causal, work in ORDERS:
        drawn, ends = [], []
        for way, label in WAYS.items():
            at = {k[2]: x for k, x in found.items() if (k[0], k[1], k[3]) == (causal, work, way)}
            if at:
                drawn.append(Curve(label, list(at), list(at.values()), WAY_LOOKS[way]))
                ends.append(f"{label} {style.number(at[max(at)])} at {style.length(max(at))}")
        if drawn:
            lengths = drawn[0].x
            drawn.append(Curve("as many times as GPUs", lengths, [ranks] * len(lengths), "floor"))
            panels[name(causal, work)] = drawn
            alts.append(f"Times faster, {name(causal, work)}: {'; '.join(ends)}.")
    lengths = sorted({n for k in found for n in [k[2]]})
    return diagrams.curves(
        panels,
        x=Axis("tokens of the sequence", True, {n: style.length(n) for n in lengths},
               text=style.length),
        y=Axis(f"times faster on {ranks} GPUs"),
        alts=alts, switch="Show", source=style.sentence(study.line),
    )  # fmt: skip


def findings(study: Study | None) -> list:
    """What a page shows of the study on several GPUs: figures, claims, and an exchange alone."""
    if study is None:
        return ["No machine with several GPUs has been measured yet."]
    shown = studies.beside(study)
    rows = study.select(what="exchange", ranks=2, status="ok")
    cells = [
        [r["op"], style.number(r["bytes"] / 1024), style.number(r.get("device_us")),
         style.number(r["host_us"])]
        for r in rows
    ]  # fmt: skip
    head = ["", "each rank sends [KiB]", "device [µs]", "in a row [µs]"]
    caption = f"An exchange of two ranks alone; {study.line}."
    return [
        times(shown), speedups(shown), _claim_strong(study), _claim_weak(study),
        _claim_model(study), tables.Table(head, cells, caption),
    ]  # fmt: skip


def _claim_strong(study: Study):
    found = {k: x for k, x in strong(study).items() if k[2] == 2**22 and k[3] == "both"}
    return claim(
        "Two GPUs are at least 1.8 times as fast at 4M tokens, in both orders, forward and with "
        "backward",
        min(found.values()) >= 1.8 if len(found) == len(ORDERS) else None,
        "; ".join(f"{name(*k[:2])} {style.number(x)}" for k, x in found.items()) or "not measured",
        study,
    )


def _claim_weak(study: Study):
    found = [x for (_, _, N), x in weak(study).items() if N >= 2**21]
    return claim(
        "From 2M tokens a GPU on, a second piece costs less than 5 percent",
        max(found) < 1.05 if found else None,
        f"at most {style.number(max(found))} times the time of one piece"
        if found
        else "not measured",
        study,
    )


def _claim_model(study: Study):
    found = []
    for causal, work in ORDERS:
        model = scaling.of(study, causal, work)
        rows = study.select(
            what="call", ranks=2, way="both", status="ok", causal=causal, work=work
        )  # fmt: skip
        found += [
            r["device_ms"] / model.time_ms(r["N"], 2, "rounds")
            for r in rows
            if model and r["N"] >= 2**20
        ]
    return claim(
        "On two GPUs the model is right within 15 percent from 1M tokens on",
        max(abs(x - 1) for x in found) < 0.15 if found else None,
        f"measured / predicted from {style.number(min(found))} to {style.number(max(found))}"
        if found
        else "not measured",
        study,
    )


def on_paper(
    records: list[Record], lengths: list[int], exchange_ms: float
) -> Figure | tables.Table:
    """Times faster by the number of GPUs, causal and forward; switches choose GPU and length.

    Computed from the times of one GPU and an exchange that is assumed to take `exchange_ms`.
    """
    return by_gpu(records, lambda record: _on_paper(record, lengths, exchange_ms))


def _on_paper(record: Record, lengths: list[int], exchange_ms: float) -> Figure:
    model = scaling.on_paper(record, True, "forward", exchange_ms)
    panels, alts = {}, []
    for N in lengths if model else ():
        drawn = [Curve("as many times as GPUs", RANKS, [float(n) for n in RANKS], "floor", False)]
        for way, label, look in (
            ("rounds", "log2(R) rounds", "book"),
            ("in a row", "R − 1 exchanges in a row", "sdpa-flash"),
        ):
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
        source=style.sentence(
            f"computed from times of one GPU {record.line}, and an exchange of two ranks that is "
            f"assumed to take {style.number(1e3 * exchange_ms)} µs"
        ),
    )
