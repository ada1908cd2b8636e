"""The README's figure and tables, drawn from the records; and the figures for slides."""

from pathlib import Path

from . import comparing, contenders, figures, results, style, tables
from .errors import BenchError
from .results import Record
from .roofline import FORWARD

BEGIN = "<!-- results:begin -->"
END = "<!-- results:end -->"
IMAGE = "results/figures/headline.png"  # beside it the same as SVG
KINDS = ("png", "svg")
TWO = (
    "Two GPUs with one processor and two memories: what speeds up as a copy of its bytes does "
    "waits for the memory."
)


def block(record: Record, alt: str) -> str:
    """The Markdown between the markers: the figure, then tables with their provenance.

    One for each batch, and one of two GPUs if another one with the same processor is recorded.
    """
    batches = headline_batches(record)
    shown = [headline_table(record, B).markdown() for B in batches]
    others = [results.load(slug) for slug in results.available()]
    pairs = [pair for other in others if (pair := comparing.pair([record, other]))]
    for pair in pairs[:1]:
        shown += [TWO, comparing.table(*pair, B=batches[0], work=FORWARD).markdown()]
    return "\n\n".join([f"![{alt}]({IMAGE})", *shown])


def headline_batches(record: Record) -> list[int]:
    """The batches, the largest one, which fills the GPU best, first; the figure shows that one."""
    batches = sorted({m.B for m in record.select()}, reverse=True)
    if not batches:
        raise BenchError(f"The record of {record.provenance.gpu} holds no measurement.")
    return batches


def headline_table(record: Record, B: int) -> tables.Table:
    """Forward times by length, both orders: the book, the fastest SDPA, the ratio, the floor."""
    columns = ["N"]
    for causal in (False, True):
        order = style.order(causal)
        columns += [f"{order} [ms]", "fastest SDPA [ms]", "SDPA / book", "share of copy speed"]
    rows = []
    for n in record.values("N"):
        row = [style.length(n)]
        for causal in (False, True):
            shape = {"B": B, "causal": causal, "work": FORWARD, "N": n}
            ours = record.one(contender="book", **shape)
            softmax = tables.fastest_softmax(record, **shape)
            row += [
                tables.cell(ours),
                tables.cell(softmax),
                tables.ratio(record, **shape),
                tables.share_cell(ours),
            ]
        rows.append(row)
    first = record.one(B=B)
    caption = (
        f"B = {B}: {contenders.label('book')}, forward, ({B}, {first.H}, N, {first.D}), "
        f"{first.dtype}, median; {record.line}."
    )
    return tables.Table(columns, rows, caption + tables.footnote(rows))


def update(record: Record, readme: Path) -> list[Path]:
    """Rewrite the README between its markers and draw the image beside it; returns the files."""
    try:
        text = readme.read_text(encoding="utf-8")
    except OSError as problem:
        raise BenchError(f"{readme} cannot be read: {problem}.") from None
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise BenchError(f"{readme} has to hold {BEGIN} and, after it, {END}, each once.")
    folder = (readme.parent / IMAGE).parent
    alt, images = _drawn(record, folder, Path(IMAGE).stem, headline_batches(record)[0])
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    readme.write_text(f"{head}{BEGIN}\n{block(record, alt)}\n{END}{tail}", encoding="utf-8")
    return [readme, *images]


def _drawn(record: Record, folder: Path, name: str, B: int) -> tuple[str, list[Path]]:
    """(the alternative text, the files) of time by length at a batch."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{kind}" for kind in KINDS]
    return [figures.headline_image(record, path, B=B) for path in paths][0], paths


def draw(record: Record, folder: Path) -> list[Path]:
    """The same figure for each batch, as PNG and SVG, for slides and other pages.

    Of the record that the README shows the README's own figure too.
    """
    batches = headline_batches(record)
    names = {f"{record.provenance.slug}-b{B}": B for B in batches}
    if record.provenance.slug == results.MAIN:
        names = {Path(IMAGE).stem: batches[0]} | names
    return [path for name, B in names.items() for path in _drawn(record, folder, name, B)[1]]
