"""The natural experiment of the chapter on memory: an H100 and an H200, which differ in the memory.

Everything here is of records, of both GPUs or of neither; where one is missing there are no rows.
"""

from . import comparing, data_sheets, results, roofline, studies, style
from .diagrams import Curve
from .errors import BenchError
from .memory_figures import size
from .roofline import FORWARD, FORWARD_BACKWARD, Shape
from .tables import Table

NAMES = ("NVIDIA H100 80GB HBM3", "NVIDIA H200")
SHEETS = [data_sheets.SHEETS[name] for name in NAMES]
FASTER = SHEETS[1].bandwidth / SHEETS[0].bandwidth

# (what runs, what is predicted of it, contender, causal, work): at B = 8 and the longest sequence
RACED = (
    ("forward", FASTER, "book", False, FORWARD),
    ("forward + backward", FASTER, "book", False, FORWARD_BACKWARD),
    ("causal, forward", FASTER, "book", True, FORWARD),
    ("causal, forward + backward", FASTER, "book", True, FORWARD_BACKWARD),
    ("eager PyTorch, forward", FASTER, "eager", False, FORWARD),
    ("SDPA flash, forward", 1.0, "sdpa-flash", False, FORWARD),
    ("SDPA cuDNN, forward", 1.0, "sdpa-cudnn", False, FORWARD),
)
# (what runs, a study, what its row has): all of it moves so many bytes that memory should decide
PASS = {"part": "kernel", "B": 8, "N": 65536}
CACHE = {"what": "token", "B": 64, "N": 16384}
KERNELS = (
    ("backward, key kernel", "backward", PASS | {"kernel": "backward_key_kernel"}),
    ("backward, query kernel", "backward", PASS | {"kernel": "backward_query_kernel"}),
    ("causal backward, states", "backward", PASS | {"kernel": "state_kernel"}),
    ("causal backward, keys", "backward", PASS | {"kernel": "causal_backward_key_kernel"}),
    ("causal backward, queries", "backward", PASS | {"kernel": "causal_backward_query_kernel"}),
    ("token from a state, B = 1,024", "decoding", {"what": "token", "way": "state", "B": 1024}),
    ("token from a cache, SDPA flash", "decoding", CACHE | {"way": "cache-flash"}),
    ("token from a cache, SDPA cuDNN", "decoding", CACHE | {"way": "cache-cudnn"}),
)
MEASURED = {
    "copy": "copy, measured",
    "book": "this book, measured",
    "eager": "eager PyTorch, measured",
    "sdpa-flash": "SDPA flash, measured",
    "sdpa-cudnn": "SDPA cuDNN, measured",
}
STATED = "B = 8 and N = 64K unless something else is said, and N = 16K for a cache at B = 64"
COLUMNS = {"backward": ("median_ms", "floor_ms"), "decoding": ("device_ms", "copy_ms")}


def both(measured: list) -> tuple | None:
    """Of records or studies that of each of the two GPUs, or None."""
    found = {one.provenance.gpu: one for one in measured}
    return tuple(found[name] for name in NAMES) if set(NAMES) <= set(found) else None


def records() -> tuple | None:
    """The records of the race."""
    return both([results.load(slug) for slug in results.available()])


def study(name: str) -> tuple | None:
    """What is recorded of a study."""
    return both(studies.recorded(name))


def chips() -> Table:
    """What the two GPUs are, by what each says of itself and by its data sheet."""
    known = [r.provenance for r in records() or ()] or [None, None]

    def row(name, column, write):
        values = (getattr(p, column, None) for p in known)
        return [name, *("–" if v is None else write(v) for v in values)]

    rows = [
        row("multiprocessors", "sm_count", str),
        row("highest clock [MHz]", "sm_clock_max_mhz", str),
        row("power limit [W]", "power_limit_w", style.number),
        row("L2", "l2_bytes", size),
        row("memory", "memory_bytes", size),
        ["memory, data sheet [GB/s]", *(f"{d.bandwidth / 1e9:.0f}" for d in SHEETS)],
    ]
    gpus = [name.removeprefix("NVIDIA ") for name in NAMES]
    return Table(["", *gpus], rows, "What each GPU says of itself, and its data sheet.")


def predicted(family: str, shape: Shape, work: str = FORWARD) -> float:
    """Time on the first GPU over that on the second by the roofline of their data sheets."""
    moved = roofline.ideal_bytes(shape, work)
    flops = roofline.ideal_flops(shape, work, family)
    old, new = (roofline.least_ms(moved, flops, d.bandwidth, d.matrix) for d in SHEETS)
    return old / new


def gained(contender: str, causal: bool, work: str, B: int = 8) -> dict[int, float]:
    """Length → time on the first GPU over that on the second; the contender "copy" is the floor."""
    wanted = {"causal": causal, "work": work, "B": B}
    wanted["contender"] = "book" if contender == "copy" else contender
    times = [
        {
            m.N: m.floor_ms if contender == "copy" else m.median_ms
            for m in r.select(**wanted)
            if m.ok
        }
        for r in records() or ()
    ]
    return (
        {n: times[0][n] / times[1][n] for n in sorted(times[0]) if n in times[1]} if times else {}
    )


def curves(causal: bool, work: str) -> list[Curve]:
    """Predicted and measured gains by length, at B = 8."""
    lengths = sorted({2**i for i in range(7, 17)} | {412, 590})
    drawn = []
    for family, look in (("softmax", "roof"), ("linear", "floor")):
        gains = [predicted(family, Shape(8, 8, n, causal=causal), work) for n in lengths]
        drawn.append(Curve(f"{family}, predicted", lengths, gains, look, False))
    for name, label in MEASURED.items():
        found = gained(name, causal, work)
        if found:
            drawn.append(Curve(label, list(found), list(found.values()), name))
    return drawn


def rows() -> list[dict]:
    """Operators and single kernels: what was predicted of each, how much it gained, and a copy."""
    found = []
    race, there = records() or (), {name: study(name) or () for name in COLUMNS}
    longest = min((max(r.values("N")) for r in race), default=None)
    for what, expected, contender, causal, work in RACED:
        shape = {"causal": causal, "work": work, "N": longest, "B": 8}
        pair = [r.one(contender=contender, **shape) for r in race]
        if pair and all(m and m.ok and not m.floor_void for m in pair):
            found.append(_row(what, expected, *((m.median_ms, m.floor_ms) for m in pair)))
    for what, name, wanted in KERNELS:
        try:
            times = [[one.one(**wanted)[c] for c in COLUMNS[name]] for one in there[name]]
        except BenchError:  # not measured on one of them
            continue
        if times and all(map(all, times)):
            found.append(_row(what, FASTER, *times))
    return found


def _row(what: str, expected: float, first, second) -> dict:
    """A row of (time, copy) on both GPUs."""
    speedup, copies = first[0] / second[0], first[1] / second[1]
    return {
        "what": what,
        "predicted": expected,
        "speedup": speedup,
        "copies": copies,
        "shares": (first[1] / first[0], second[1] / second[0]),
        "binds": comparing.binds(speedup, copies),
    }


def table(found: list[dict]) -> Table:
    """The rows, with what binds each."""
    cells = [
        [
            r["what"],
            f"{r['predicted']:.2f}",
            f"{r['speedup']:.2f}",
            f"{r['copies']:.2f}",
            r["binds"],
            *(f"{share:.2f}" if share > 0.01 else style.number(share, 1) for share in r["shares"]),
        ]
        for r in found
    ]
    columns = ["what runs", "predicted", "measured", "a copy", "bound by"]
    columns += [f"share of copy speed, {name.split()[1]}" for name in NAMES]
    measured = [records(), *map(study, COLUMNS)]
    lines = dict.fromkeys(one.line for both in measured for one in both or ())
    said = f"Time on an H100 over time on an H200; {STATED}"
    caption = f"{said}. {style.sentence(*lines)}" if lines else f"{said}."
    return Table(columns, cells, caption, words=("what runs", "bound by"))
