"""The claim that this book grew from, as data, and what a roofline says of it.

The project from which this book grew published one table: times of softmax and linear attention by
length, and their ratio. This is that table, so that pages can show it beside what is measured now.
"""

from dataclasses import dataclass

from . import style, tables
from .results import Record
from .roofline import FORWARD, Shape, ideal_bytes, ideal_flops
from .tables import Table

SOURCE = (
    "README of the project that this book grew from, as it was before this book: "
    "A100 40GB, PyTorch 2.2, Triton 2.3; stated as B = 8, H = 8, D = 64"
)
STATED_BATCH, HEADS, HEAD_DIM = 8, 8, 64
LENGTHS = (4096, 8192, 16384, 32768, 65536)
SDPA_MS = (0.42, 1.60, 5.01, 18.03, 71.4)
LINEAR_MS = (0.45, 0.47, 0.47, 0.74, 1.43)

# data sheet of the A100 40GB
BANDWIDTH = 1.555e12  # B/s
RATE = 312e12  # FLOP/s in bfloat16, dense


def table() -> Table:
    """The table as it was published."""
    rows = [
        [style.length(n), f"{s:g}", f"{x:g}", style.number(s / x)]
        for n, s, x in zip(LENGTHS, SDPA_MS, LINEAR_MS, strict=True)
    ]
    return Table(["N", "SDPA [ms]", "linear [ms]", "ratio"], rows, f"{SOURCE}.")


@dataclass(frozen=True)
class Need:
    """What a column would need of the GPU, from one row of the table to the next, at a batch.

    The difference of two rows leaves out the fixed costs of a call. `share` is of the data sheet.
    """

    column: str
    B: int
    rate: float  # FLOP/s for softmax, B/s for linear attention
    share: float

    @property
    def verdict(self) -> str:
        """Whether an A100 could do it: no memory or tensor core reaches its data sheet."""
        if self.share > 1:
            return "impossible"
        return "hardly" if self.share > 0.9 else "possible"


def need(column: str, B: int) -> Need:
    """What "sdpa" or "linear" needs at a batch between the two longest sequences."""
    shapes = [Shape(B, HEADS, n, HEAD_DIM, HEAD_DIM) for n in LENGTHS[-2:]]
    if column == "sdpa":
        times, most = SDPA_MS, RATE
        amounts = [ideal_flops(s, FORWARD, "softmax") for s in shapes]
    elif column == "linear":
        times, most = LINEAR_MS, BANDWIDTH
        amounts = [ideal_bytes(s, FORWARD) for s in shapes]
    else:
        raise ValueError(f"column is {column!r}; allowed are 'sdpa' and 'linear'")
    rate = (amounts[1] - amounts[0]) / (times[-1] - times[-2]) * 1e3
    return Need(column, B, rate, rate / most)


def argument(batches=(8, 1)) -> Table:
    """For each column and batch what the table asks of an A100, and whether it can be."""
    rows = []
    for column in ("sdpa", "linear"):
        for B in batches:
            n = need(column, B)
            unit = "TFLOP/s" if column == "sdpa" else "GB/s"
            rate = style.number(n.rate / (1e12 if column == "sdpa" else 1e9))
            rows.append([column, str(B), f"{rate} {unit}", style.number(n.share, 4), n.verdict])
    columns = ["column", "B", "needs", "of the data sheet", "on an A100"]
    caption = "From 32K to 64K tokens, so that fixed costs of a call cancel. " + SOURCE + "."
    return Table(columns, rows, caption, words=("needs", "on an A100"))


def beside(record: Record, causal: bool = False) -> Table:
    """The published ratio, and the same of a record at B = 8 and B = 1."""
    columns = ["N", "published ratio"]
    for B in (8, 1):
        columns += [f"B = {B}: fastest SDPA [ms]", f"B = {B}: this book [ms]", f"B = {B}: ratio"]
    rows = []
    for n, s, x in zip(LENGTHS, SDPA_MS, LINEAR_MS, strict=True):
        row = [style.length(n), style.number(s / x)]
        for B in (8, 1):
            shape = {"B": B, "N": n, "causal": causal, "work": FORWARD}
            row += [
                tables.cell(tables.fastest_softmax(record, **shape)),
                tables.cell(record.one(contender="book", **shape)),
                tables.ratio(record, **shape),
            ]
        rows.append(row)
    order = style.order(causal)
    return Table(columns, rows, f"Forward, {order}; {record.line}." + tables.footnote(rows))


# at 64K tokens on an H100: (B, causal) → at least this many times the fastest SDPA
WANTED = {(8, False): 170, (1, False): 130, (8, True): 65}


def reached(record: Record) -> dict[tuple[int, bool], float | None]:
    """The ratios that WANTED speaks of; None where there is none, or it is void."""
    if "H100" not in record.provenance.gpu:  # it is of that GPU
        return dict.fromkeys(WANTED)
    return {
        (B, causal): tables.speedup(record, B=B, causal=causal, N=LENGTHS[-1], work=FORWARD)
        for B, causal in WANTED
    }
