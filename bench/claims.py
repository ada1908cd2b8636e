"""Claims are tests: a lesson of the book is evaluated on the data of the page that states it."""

import hashlib
import html
import json
from collections import Counter
from collections.abc import Sized
from dataclasses import dataclass

from . import style
from .results import Record


@dataclass(frozen=True)
class Claim:
    """A sentence, whether it held, the evidence in one line, and where that comes from.

    `expected` is what the page takes for granted: True that it holds, False that it does not,
    None where the page leaves it open.
    """

    sentence: str
    held: bool | None  # None: there was nothing to decide it by
    evidence: str
    source: str
    gpu: str
    live: bool
    expected: bool | None = True

    @property
    def surprising(self) -> bool:
        """Whether it is decided, and otherwise than the page takes for granted."""
        return None not in (self.held, self.expected) and self.held is not self.expected

    @property
    def verdict(self) -> str:
        """`Held`, `Did not hold` or `Not decided`, and what the page expected if not that it holds.

        `Did not hold, as expected` is a lesson about why something fails.
        """
        words = {True: "Held", False: "Did not hold", None: "Not decided"}[self.held]
        if self.expected is False and self.held is not None:
            words += ", against expectation" if self.held else ", as expected"
        return words

    @property
    def anchor(self) -> str:
        """The id of its box, the same in every build while the sentence stays."""
        return "claim-" + hashlib.sha256(self.sentence.encode()).hexdigest()[:10]

    def facts(self) -> dict:
        """What the page of all claims is made of: plain JSON."""
        return {
            "anchor": self.anchor,
            "sentence": self.sentence,
            "held": self.held,
            "verdict": self.verdict,
            "surprising": self.surprising,
            "evidence": self.evidence,
            "gpu": self.gpu,
            "live": self.live,
        }

    @property
    def kind(self) -> str:
        """The admonition that it is shown as."""
        if self.held is None:
            return "note"
        if self.surprising:
            return "warning"
        return "tip" if self.held else "important"

    @property
    def marks(self) -> str:
        """The attributes of its HTML element: a place to link to, and its facts."""
        return f'id="{self.anchor}" data-claim="{html.escape(json.dumps(self.facts()))}"'

    def _repr_html_(self) -> str:
        return (
            f'<div class="admonition {self.kind} book-claim" {self.marks}>'
            f'<p class="admonition-title">{self.verdict}: {html.escape(self.sentence)}</p>'
            f"<p>{html.escape(self.evidence)}</p>"
            f'<p class="book-provenance">{html.escape(self.source)}</p></div>'
        )

    def __repr__(self) -> str:
        return f"[{self.verdict.upper()}] {self.sentence}\n  {self.evidence}\n  {self.source}"


class Claims(list):
    """Several claims of one source in one box: a line for each, those of special note first."""

    KINDS = ("warning", "note", "important", "tip")  # in this order

    def _repr_html_(self) -> str:
        shown = sorted(self, key=lambda c: self.KINDS.index(c.kind))
        counted = Counter(c.verdict for c in shown)
        title = "; ".join(f"{verdict}: {n} of {len(self)}" for verdict, n in counted.items())
        lines = "".join(
            f"<li {c.marks}><strong>{c.verdict}</strong>: {html.escape(c.sentence)}; "
            f"{html.escape(c.evidence)}</li>"
            for c in shown
        )
        kind = shown[0].kind if shown else "note"
        sources = " ".join(dict.fromkeys(c.source for c in shown))
        return (
            f'<div class="admonition {kind} book-claim">'
            f'<p class="admonition-title">{title or "Nothing is claimed"}</p><ul>{lines}</ul>'
            f'<p class="book-provenance">{html.escape(sources)}</p></div>'
        )

    def __repr__(self) -> str:
        return "\n".join(map(repr, self))


def claim(
    sentence: str,
    condition,
    evidence: str,
    record: Record | list[Record],
    *,
    expected: bool | None = True,
) -> Claim:
    """State a lesson and say whether it holds on `record`: a record, a study, or several of them.

    `condition` is true, false, or where a measurement is missing None or empty; `evidence` is one
    line with the numbers that decide it. `expected=False` is for a claim of which the page teaches
    why it fails, `expected=None` for a goal that may not be reached yet. The build of the book
    warns of what is recorded on an H100 and comes out otherwise than expected, or is not decided,
    and CI fails on warnings.
    """
    missing = condition is None or (isinstance(condition, Sized) and not condition)
    held = None if missing else bool(condition)
    records = record if isinstance(record, list | tuple) else [record]
    source = style.sentence(*dict.fromkeys(r.line for r in records))
    gpu = " and ".join(dict.fromkeys(r.provenance.gpu for r in records))
    return Claim(sentence, held, evidence, source, gpu, any(r.live for r in records), expected)
