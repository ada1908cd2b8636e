"""The limits: what the operator has to reach, and what a run on a GPU says of it.

Ratios compare times of one run: a copy of the ideal bytes over the book's time, or another
package's time over the book's. The book computes φ = elu + 1 and the normalizer in the same call;
another package is given φ(q) and φ(k) ready, and its own layout.

The limits were set for an H100: a GPU whose memory is faster beside the same processor has smaller
shares of copy speed.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from . import contenders, isolated, style, tables
from .claims import Claims, claim
from .results import Record
from .roofline import FORWARD, FORWARD_BACKWARD, Shape, ideal_bytes
from .runner import Plan
from .studies import Study
from .timing import FULL, QUICK, Sampling

FLA_FASTEST = ("fla-chunk", "fla-fused-chunk")  # the third mode takes one token after another
FLA_NORMALIZED = ("fla-chunk-normalized",)
SDPA = ("sdpa-flash", "sdpa-cudnn", "sdpa-efficient")
LENGTHS = (128, 256, 512, 1024, 2048, 4096)  # among which the crossover is looked for
EAGER = "limits-eager"  # the experiment of the crossover
RACE, OTHERS = "limits", "limits-others"
LIMIT_S = 134.0  # for the races; compiling what fla chooses from is the longest part


@dataclass(frozen=True)
class Limit:
    """One row. `kind` says what `must` and `aim` are limits of.

    floor: copy time / time, at least. others: fastest other's time / time, at least.
    crossover: tokens, at most. first: seconds, at most. memory: % of the output, at most.
    `missed` names a limit that the recorded run is known to miss: the page says why.
    """

    kind: str
    what: str
    shape: Shape | None
    work: str
    must: float | None
    aim: float | None
    against: tuple[str, ...] = ()
    missed: bool = False

    @property
    def more(self) -> bool:
        """Whether more is better."""
        return self.kind in ("floor", "others")

    @property
    def size(self) -> str:
        """The shape as tables show it."""
        if self.shape is None:
            return "any supported"
        n = "N" if self.kind == "crossover" else f"{self.shape.N}"
        return f"({self.shape.B}, {self.shape.H}, {n}, {self.shape.D})"

    def met(self, value: float | None) -> str:
        """Which limit is reached: aim, must or no; – where nothing was measured or is asked."""
        if value is None or self.must is None:
            return "–"
        reached = [
            value >= limit if self.more else value <= limit for limit in (self.aim, self.must)
        ]
        return "aim" if reached[0] else "must" if reached[1] else "no"


def _floor(B, H, N, D, causal, work, must, aim):
    what = f"{style.order(causal)} {style.work_name(work)}"
    return Limit("floor", what, Shape(B, H, N, D, D, causal=causal), work, must, aim)


def _fla(B, work, against, which, must, aim, **known):
    shape = Shape(B, 8, 65536, causal=True)
    what = f"causal {style.work_name(work)}, against fla's {which}"
    return Limit("others", what, shape, work, must, aim, against, **known)


def _crossover(B, causal, must, aim, **known):
    what = f"{style.order(causal)} forward, called eagerly: shortest N that beats SDPA"
    return Limit(
        "crossover", what, Shape(B, 8, LENGTHS[-1], causal=causal), FORWARD, must, aim, **known
    )


FASTEST, CHUNK = "fastest mode, not normalized", "chunk mode, normalized"
LIMITS = (
    _floor(8, 8, 65536, 64, False, FORWARD, 0.92, 0.97),
    _floor(1, 8, 65536, 64, False, FORWARD, 0.80, 0.92),
    _floor(4, 16, 16384, 128, False, FORWARD, 0.88, 0.95),
    _floor(8, 8, 65536, 64, False, FORWARD_BACKWARD, 0.75, 0.90),
    _floor(8, 8, 65536, 64, True, FORWARD, 0.65, 0.85),
    _floor(1, 8, 65536, 64, True, FORWARD, 0.55, 0.80),
    _floor(4, 16, 16384, 128, True, FORWARD, 0.55, 0.80),
    _floor(8, 8, 65536, 64, True, FORWARD_BACKWARD, 0.40, 0.65),
    _fla(8, FORWARD, FLA_FASTEST, FASTEST, 1.05, 1.4),
    _fla(1, FORWARD, FLA_FASTEST, FASTEST, 3.0, 4.0, missed=True),
    _fla(8, FORWARD_BACKWARD, FLA_NORMALIZED, CHUNK, 4.0, 8.0),
    _crossover(8, False, 1024, 256),
    _crossover(1, False, 2048, 1024),
    _crossover(8, True, 1024, 256),
    _crossover(1, True, 2048, 1024),
    Limit(
        "first",
        "first call, fresh process, empty Triton cache",
        None,
        FORWARD,
        4.0,
        2.0,
    ),
    Limit(
        "memory",
        "extra memory over inputs and output, forward",
        Shape(8, 8, 65536),
        FORWARD,
        1.0,
        0.1,
    ),
)


def plans(quick: bool) -> list[Plan]:
    """The races that decide the rows; in quick form those of the book and SDPA alone.

    What needs no other package comes first, so that it is there when the time is up.
    """
    sampling = QUICK if quick else FULL
    floors, others = [], []
    for row in LIMITS:
        s = row.shape
        if row.kind == "floor":
            racers, experiment, into = ("book",), RACE, floors
        elif row.kind == "others" and not quick:
            racers, experiment, into = ("book", *row.against), OTHERS, others
        else:
            continue
        size = (s.B,), (s.N,), s.H, s.D, (s.causal,), (row.work,)
        into.append(Plan(racers, *size, s.dtype, sampling, experiment))
    eager = Plan(
        ("book", *(SDPA[:2] if quick else SDPA)),
        # the shortest last: a crossover needs all the longer ones, if the time is up
        lengths=(LENGTHS[1::2] if quick else LENGTHS)[::-1],
        works=(FORWARD,),
        sampling=Sampling(least=3 if quick else 9, most=9 if quick else 30, budget_s=0.05),
        experiment=EAGER,
        clock="eager",
    )
    return [*floors, *others, eager]  # what takes long first


def measure(quick: bool, say) -> list[dict]:
    """The rows of the table, from a live run; within three minutes, quick in half a minute."""
    from . import first_call, memory

    record = isolated.run(*plans(quick), say=say, limit_s=LIMIT_S)
    say("first calls in fresh processes" + (", one shape" if quick else ""))
    shapes = first_call.SHAPES[:1] if quick else first_call.SHAPES
    first = list(zip(shapes, first_call.in_fresh_processes(shapes=shapes), strict=True))
    say("extra memory")
    with ThreadPoolExecutor(2) as pool:
        jobs = [Shape(8, 8, 65536, causal=causal) for causal in (False, True)]
        extra = list(pool.map(lambda x: memory.in_a_fresh_process("book", x, FORWARD), jobs))
    return decide(record, first, extra)


def decide(record: Record, first: list[tuple[dict, dict]], extra: list[dict]) -> list[dict]:
    """A flat row for each limit, from what was measured."""
    return [_row(limit, record, first, extra) for limit in LIMITS]


def _row(limit: Limit, record: Record, first, extra) -> dict:
    row = {
        "kind": limit.kind,
        "work": limit.what,
        "shape": limit.size,
        "causal": limit.shape.causal if limit.shape else None,
        "time_ms": None,
        "p20_ms": None,
        "p80_ms": None,
        "against": None,
        "against_ms": None,
        "value": None,
        "must": limit.must,
        "aim": limit.aim,
        "reason": None,
    }
    decided = {
        "floor": _decide_race,
        "others": _decide_race,
        "crossover": _decide_crossover,
        "first": lambda *_: _decide_first(first),
        "memory": lambda *_: _decide_memory(limit, extra),
    }[limit.kind](limit, record)
    row |= decided
    row.setdefault("met", limit.met(row["value"]))
    return row


def _decide_race(limit: Limit, record: Record) -> dict:
    race = RACE if limit.kind == "floor" else OTHERS
    shape = _fields(limit.shape) | {"work": limit.work, "experiment": race}
    ours = record.one(contender="book", **shape)
    if ours is None:
        return {"reason": "not raced: left out, or the time was up"}
    if not ours.ok:
        return {"reason": f"{ours.status}: {ours.reason}"}
    found = {"time_ms": ours.median_ms, "p20_ms": ours.p20_ms, "p80_ms": ours.p80_ms}
    if limit.kind == "floor":
        void = ours.floor_void
        found |= {"against": "copy", "against_ms": ours.floor_ms, "value": ours.share_of_floor}
        return found | ({"met": "void", "reason": "its times are unsteady"} if void else {})
    others = [record.one(contender=name, **shape) for name in limit.against]
    others = [m for m in others if m is not None]
    good = [m for m in others if m.ok]
    if not good:
        reasons = {f"{m.contender} {m.status.replace('_', ' ')}: {m.reason}" for m in others}
        return found | {"reason": "; ".join(sorted(reasons))[:240] or "nobody raced"}
    best = min(good, key=lambda m: m.median_ms)
    found |= {
        "against": best.contender,
        "against_ms": best.median_ms,
        "value": best.median_ms / ours.median_ms,
    }
    if ours.void or best.void:
        return found | {"met": "void", "reason": "the times are unsteady"}
    return found


def _fields(shape: Shape) -> dict:
    return {"B": shape.B, "H": shape.H, "N": shape.N, "D": shape.D, "causal": shape.causal}


def _decide_crossover(limit: Limit, record: Record) -> dict:
    """The least N from which on the book is faster at every longer one that was measured too."""
    shape = _fields(limit.shape) | {"experiment": EAGER}
    del shape["N"]
    found: dict = {}
    lengths = sorted({m.N for m in record.select(**shape)}, reverse=True)
    if not lengths:
        return {"reason": "not raced: the time was up"}
    for n in lengths:
        ours = record.one(contender="book", N=n, **shape)
        others = [m for m in record.select(N=n, **shape) if m.ok and m.contender != "book"]
        if ours is None or not ours.ok:
            why = "not measured" if ours is None else f"{ours.status}: {ours.reason}"
            found.setdefault("reason", f"the book at N = {n} is {why}")
            break
        if not others:
            found.setdefault("reason", f"no SDPA backend runs at N = {n}")
            break
        best = min(others, key=lambda m: m.median_ms)
        if ours.median_ms >= best.median_ms:
            if "value" not in found:
                found = {"met": "no", "reason": f"slower than {best.contender} up to N = {n}"}
            break
        found = {
            "value": n,
            "time_ms": ours.median_ms,
            "p20_ms": ours.p20_ms,
            "p80_ms": ours.p80_ms,
            "against": best.contender,
            "against_ms": best.median_ms,
        }
    return found


def _decide_first(first) -> dict:
    """The slowest of the shapes."""
    failed = [r["failed"] for _, r in first if "failed" in r]
    if failed:
        return {"reason": failed[0][:240]}
    if not first:
        return {"reason": "not measured in this form of the run"}
    shape, worst = max(first, key=lambda pair: pair[1]["first_call_s"])
    order = style.order(shape["causal"])
    size = f"({shape['B']}, {shape['H']}, {shape['N']}, {shape['D']}) {shape['dtype']} {order}"
    return {"value": worst["first_call_s"], "reason": f"the slowest of {len(first)}: {size}"}


def _decide_memory(limit: Limit, extra: list[dict]) -> dict:
    """The larger of both orders, in % of the output."""
    failed = [r["failed"] for r in extra if "failed" in r]
    if failed:
        return {"reason": failed[0][:240]}
    output = ideal_bytes(limit.shape, FORWARD) / 4
    return {"value": 100 * max(r["extra_bytes"] for r in extra) / output}


UNITS = {"floor": "", "others": " ×", "crossover": " tokens", "first": " s", "memory": " %"}


def _with_unit(kind: str, value: float | None) -> str:
    """A value of a row of this kind, as tables show it."""
    if value is None:
        return "–"
    text = f"{value:,.0f}" if kind == "crossover" else style.number(value)
    return f"{text}{UNITS[kind]}"


def table(rows: list[dict], line: str) -> tables.Table:
    """The rows for a terminal or a page."""
    cells, notes = [], {}
    for i, r in enumerate(rows):
        against = style.number(r["against_ms"])
        if r["kind"] not in ("floor",) and r["against"]:
            against += f" ({contenders.label(r['against'])})"
        cells.append(
            [
                r["work"],
                r["shape"],
                style.number(r["time_ms"]),
                against,
                _with_unit(r["kind"], r["value"]),
                _with_unit(r["kind"], r["must"]),
                _with_unit(r["kind"], r["aim"]),
                r["met"],
            ]
        )
        if r["reason"]:
            notes[i, 7] = r["reason"]
    columns = ["work", "shape", "time [ms]", "floor or other [ms]"]
    columns += ["reached", "must", "aim", "met"]
    return tables.Table(
        columns,
        cells,
        f"What was reached; must and aim are for an H100; {line}.",
        notes,
        words=("work", "shape", columns[3], "met"),
    )


def claims(study: Study) -> Claims:
    """A claim for each limit: that the study reaches what must be reached.

    What is void or was not measured is not decided.
    """
    held = {"aim": True, "must": True, "no": False}
    return Claims(
        claim(
            f"{limit.what}, {limit.size}: {'at least' if limit.more else 'at most'} "
            f"{_with_unit(limit.kind, limit.must)}{' of copy speed' * (limit.kind == 'floor')}",
            held.get(row["met"]),
            "; ".join(filter(None, [_with_unit(limit.kind, row["value"]), row["reason"]])),
            study,
            expected=not limit.missed,
        )
        for limit, row in zip(LIMITS, study.rows, strict=True)
    )
