"""What an interrupted study has so far, in files beside its record, from which `--resume` goes on.

`studies/<gpu>/NAME.partial.json` holds the rows of items that ended, as `fresh.in_turn` measures
them; `NAME-1.partial.json` and so on hold what the first race and those after it have.
A study that does neither keeps nothing.
"""

import json
import os
from contextlib import contextmanager
from pathlib import Path

from . import hardware, results
from .errors import BenchError

SAME = ("gpu", "torch", "triton", "commit", "dirty")  # or it would be another measurement
_now = None


class Kept:
    """The files of one study; nothing is read or written before somebody asks `now()`."""

    def __init__(self, name: str, folder: Path, quick: bool, resume: bool):
        self.name, self.folder, self.quick, self.resume = name, Path(folder), quick, resume
        self.path, self.items, self.races = None, {}, 0

    def open(self) -> "Kept":
        """Read what there is to go on from, or remove it.

        Raises BenchError where that was measured elsewhere, or in another way.
        """
        if self.path is not None:
            return self
        here = hardware.provenance()
        self.facts = {key: getattr(here, key) for key in SAME} | {"quick": self.quick}
        path = self.folder / here.slug / (self.name + results.PARTIAL)
        found = self._found(path) if self.resume and path.exists() else None
        self.path = path
        if found is None:
            self.remove()
        self.items = found or {}
        self._write()
        return self

    def _found(self, path: Path) -> dict:
        try:
            data = json.loads(results.text_of(path))
            facts, items = dict(data["facts"]), dict(data["items"])
        except (ValueError, TypeError, KeyError):
            raise BenchError(f"{path} is not a file to go on from.") from None
        for key, is_now in self.facts.items():
            if facts.get(key) != is_now:
                raise BenchError(
                    f"{path} was measured with {key} {facts.get(key)}, and here it is {is_now}: "
                    "run without --resume to measure everything anew."
                )
        return items

    def get(self, item) -> list[dict] | None:
        """The rows of an item that ended, or None."""
        return self.items.get(json.dumps(item))

    def put(self, item, rows: list[dict]) -> None:
        """Keep the rows of an item."""
        self.items[json.dumps(item)] = rows
        self._write()

    def race(self) -> Path:
        """The file of the next race of this study; they come in the same order every time."""
        self.races += 1
        return self.path.with_name(f"{self.name}-{self.races}{results.PARTIAL}")

    def files(self) -> list[Path]:
        """All that there are."""
        if self.path is None:
            return []
        races = self.path.parent.glob(f"{self.name}-[0-9]*{results.PARTIAL}")
        return [p for p in (self.path, *sorted(races)) if p.exists()]

    def remove(self) -> None:
        """Nothing is kept any more: the record is written, or is measured anew."""
        for path in self.files():
            path.unlink()

    def said(self) -> str:
        """What is kept, as a part of a sentence, or ""."""
        if not self.items and len(self.files()) < 2:
            self.remove()
            return ""
        return f"what has ended is in {self.path}, and the same command with --resume goes on"

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        scratch.write_text(json.dumps({"facts": self.facts, "items": self.items}), "utf-8")
        os.replace(scratch, self.path)


def now() -> Kept | None:
    """Where the study under way keeps what has ended; None where nobody asked for that."""
    return _now.open() if _now is not None else None


@contextmanager
def into(name: str, folder, quick: bool = False, resume: bool = False):
    """While this lasts, a study keeps what has ended under `folder`.

    A KeyboardInterrupt leaves it with a message that says what is kept.
    """
    global _now
    _now = kept = Kept(name, folder, quick, resume)
    try:
        yield kept
    except KeyboardInterrupt:
        raise KeyboardInterrupt(kept.said()) from None
    finally:
        _now = None
