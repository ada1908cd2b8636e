"""The house style: one colour, marker and dash for each contender, and how numbers are written.

Colours are from Okabe and Ito's set, which readers of all kinds of colour vision tell apart; those
used here stand out on white and on near-black. Lines and text are a grey that reads on both, and
backgrounds are transparent, so that a figure needs no second version for the dark theme.
"""

from dataclasses import dataclass

GREY = "#767676"
GRID = "rgba(128, 128, 128, 0.25)"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"


@dataclass(frozen=True)
class Look:
    """How a line is drawn, in Plotly's words; `mark` and `line` say the same for matplotlib."""

    color: str
    symbol: str
    dash: str
    mark: str
    line: str


LOOKS = {
    "book": Look("#D55E00", "circle", "solid", "o", "-"),
    "eager": Look("#CC79A7", "square", "dash", "s", "--"),
    "sdpa-flash": Look("#0072B2", "diamond", "dashdot", "D", "-."),
    "sdpa-cudnn": Look("#009E73", "triangle-up", "longdash", "^", (0, (7, 2))),
    "floor": Look(GREY, "line-ew", "dot", "", ":"),
}
SPARE = (
    Look("#B38600", "triangle-down", "solid", "v", "-"),
    Look("#2A93D5", "cross", "dash", "P", "--"),
    Look("#8C6BB1", "x", "dashdot", "X", "-."),
    Look("#7A7A00", "star", "longdash", "*", (0, (7, 2))),
)


def look(name: str) -> Look:
    """The look of a contender; one without a look of its own always gets the same spare one."""
    if name in LOOKS:
        return LOOKS[name]
    return SPARE[sum(map(ord, name)) % len(SPARE)]


def number(value: float | None, digits: int = 3) -> str:
    """Three significant digits without an exponent: 0.00512, 1.14, 146, 1240."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    text = f"{value:.{digits}g}"
    if "e" not in text:
        return text
    return f"{float(text):.0f}" if abs(value) >= 1 else f"{float(text):.10f}".rstrip("0")


def length(n: int) -> str:
    """A sequence length as axes and tables show it: 512, 1K, 64K, 1M."""
    if n >= 2**20 and n % 2**20 == 0:
        return f"{n // 2**20}M"
    return f"{n // 1024}K" if n >= 1024 and n % 1024 == 0 else str(n)


def sentence(*parts: str) -> str:
    """Lines of provenance, or other parts, as one sentence: `Recorded on …; recorded on … .`"""
    text = "; ".join(parts)
    if text[:1].isascii():  # a φ stays small: Φ means something else
        text = text[:1].upper() + text[1:]
    return f"{text}."


def order(causal: bool) -> str:
    """`causal` or `bidirectional`."""
    return "causal" if causal else "bidirectional"


def work_name(work: str) -> str:
    """`forward+backward` with spaces, for text."""
    return work.replace("+", " + ")
