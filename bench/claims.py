"""Claims are tests: a lesson of the book is evaluated on the data of the page that states it."""

import html
from dataclasses import dataclass

from .results import Record

made: list["Claim"] = []  # every claim of this process, in the order in which they were made


@dataclass(frozen=True)
class Claim:
    """A sentence, whether it held, the evidence in one line, and where that comes from."""

    sentence: str
    held: bool | None  # None: there was nothing to decide it by
    evidence: str
    source: str

    @property
    def verdict(self) -> str:
        """`Held`, `Did not hold` or `Not decided`."""
        return {True: "Held", False: "Did not hold", None: "Not decided"}[self.held]

    def _repr_html_(self) -> str:
        kind = {True: "tip", False: "warning", None: "note"}[self.held]
        return (
            f'<div class="admonition {kind} book-claim">'
            f'<p class="admonition-title">{self.verdict}: {html.escape(self.sentence)}</p>'
            f"<p>{html.escape(self.evidence)}</p>"
            f'<p class="book-provenance">{html.escape(self.source)}</p></div>'
        )

    def __repr__(self) -> str:
        return f"[{self.verdict.upper()}] {self.sentence}\n  {self.evidence}\n  {self.source}"


def claim(sentence: str, condition, evidence: str, record: Record) -> Claim:
    """State a lesson and say whether it holds on `record`.

    `condition` is true, false, or None where a measurement is missing; `evidence` is one line
    with the numbers that decide it.
    """
    held = None if condition is None else bool(condition)
    source = record.line[0].upper() + record.line[1:] + "."
    stated = Claim(sentence, held, evidence, source)
    made.append(stated)
    return stated
