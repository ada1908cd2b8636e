"""Studies: what a chapter measures beside the race of whole operators.

Each module of this folder is a study. It has

    ABOUT = "one line: what is measured"
    def measure(quick: bool, say: Callable[[str], None]) -> list[dict]: ...

    COLUMNS = "columns of each row | further ones where the row is good"; `x?` may be None

`measure` runs on the GPU and returns flat rows: names of columns to text, numbers, booleans or
None, with the unit in the column's name (`read_GBps`, `latency_ns`, `median_ms`). With `quick` it
ends within 20 seconds, which a chapter that is executed on a GPU waits for: where that takes a
limit, after QUICK_S seconds nothing further is begun. In full it ends within 60 as a rule. Some
take longer in full, and say so; pages show those as recorded.

A study with several kinds of rows says in which column the kind stands, `KIND = "part"`, and maps
each to its `COLUMNS`; `"kind, status"` is for rows of one status. A row is good whose status is
"ok", or that has no status and no reason. `read` refuses what lacks a column.

A study for several GPUs says `GPUS = 2`: where there are fewer it is measured only by its name on
the command line, and pages show it as recorded, so that it does not take the place of what several
recorded. The name of a study is that of its module,
with `-` for `_`.
"""

import json
import math
import os
import pkgutil
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import ClassVar, Literal

from .. import hardware, results, turns
from ..book import SHARED
from ..errors import BenchError
from ..hardware import Provenance
from ..timing import DeviceClock

SCHEMA = 1
DIRECTORY = results.DIRECTORY / "studies"  # results/studies/<gpu>/<study>.json
HOLD_LIMIT_MS = DeviceClock.HOLD_LIMIT_MS
NO_GPU = (
    "A study needs an NVIDIA GPU, and PyTorch sees none here: run this command on a machine with "
    "one, or read what is recorded in results/studies/."
)

Value = str | int | float | bool | None

STATUSES = (
    "ok", "wrong", "failed", "void", "skipped", "predicted", "oom", "too_long", "not_installed",
    "not available",
)  # fmt: skip
UNITS = "ms|us|ns|MiB|gib|GBps|TBps|TFLOPs|TFLOPps|bytes|n"
PLAIN = "B|H|N|D|Dv|value|must|aim|share_of_floor|floor_spread|batch_fits|batch_fails"
NUMBERS = re.compile(rf"(^|_)({UNITS})$|^({PLAIN})$")
TIMES = re.compile(r"_(ms|us|ns)$")
WORDS = {"contender", "label", "family", "work", "shape", "met", "way"}


@dataclass(frozen=True)
class Study:
    """The rows of one study on one GPU, with their provenance."""

    study: str
    provenance: Provenance
    rows: list[dict[str, Value]]
    schema_version: Literal[1] = SCHEMA
    live: bool = False
    borrowed: str = ""  # what of it is not its own, and where that comes from; see `completed`

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    def __post_init__(self):
        if not self.rows:
            raise ValueError("a study without rows")
        for row in self.rows:
            for name, value in row.items():
                if isinstance(value, float) and not math.isfinite(value):
                    raise ValueError(f"{name} is {value!r}; it has to be finite or None")

    def check(self) -> None:
        """What a file has to hold beside its types; ValueError says what is missing."""
        results.check_provenance(self.provenance)

    @property
    def line(self) -> str:
        """One line of provenance."""
        return self.provenance.line(live=self.live) + self.borrowed

    def select(self, **wanted) -> list[dict[str, Value]]:
        """The rows whose columns equal what is asked for; a row that lacks one is left out."""
        return [r for r in self.rows if all(k in r and r[k] == v for k, v in wanted.items())]

    def one(self, **wanted) -> dict[str, Value]:
        """The only row that `select` finds; BenchError if there is none, or more than one."""
        found = self.select(**wanted)
        if len(found) != 1:
            raise BenchError(f"The study {self.study!r} has {len(found)} rows with {wanted}.")
        return found[0]

    def column(self, name: str, **wanted) -> list[Value]:
        """One column of the rows that `select` finds, in their order."""
        return [row[name] for row in self.select(**wanted)]

    def to_json(self) -> str:
        """JSON with a line for each row, so that two records can be compared as text."""
        known = {k: v for k, v in asdict(self.provenance).items() if v is not None}
        rows = ",\n  ".join(
            json.dumps({k: results.rounded(v) for k, v in row.items()}) for row in self.rows
        )
        return (
            f'{{"schema_version": {self.schema_version},\n'
            f' "study": {json.dumps(self.study)},\n'
            f' "provenance": {json.dumps(known)},\n'
            f' "rows": [\n  {rows}\n ]}}\n'
        )


def names() -> list[str]:
    """All studies."""
    return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(__path__))


def about(name: str) -> str:
    """What a study measures, in one line."""
    return _module(name).ABOUT


def for_this_machine() -> list[str]:
    """The studies for which there are GPUs enough here."""
    return list(filter(enough_gpus, names()))


def enough_gpus(name: str) -> bool:
    """Whether there are as many GPUs here as a study asks for."""
    from torch.cuda import device_count

    return getattr(_module(name), "GPUS", 0) <= device_count()


def run(
    name: str, quick: bool = False, command: str = "", say: Callable = print, **options
) -> Study:
    """Measure a study on this machine's GPU; further options are the study's own.

    Raises BenchError when there is no such study or no GPU.
    """
    module = _module(name)
    if not hardware.has_gpu():
        raise BenchError(NO_GPU)
    with warnings.catch_warnings():
        # said where the first product of a process is one of a backward pass, and mended there
        warnings.filterwarnings("ignore", "Attempting to run cuBLAS")
        rows = [_finite(row, say) for row in module.measure(quick, say, **options)]
    for why in misfits(name, rows)[:3]:
        say(f"a row that no page can read: {why}")
    return Study(name, hardware.provenance(command, hardware.busy), rows, live=True)


def _finite(row: dict, say: Callable) -> dict:
    """A row; one with a number that no file can hold is void, and the other rows are kept."""
    odd = [n for n, x in row.items() if isinstance(x, float) and not math.isfinite(x)]
    if not odd:
        return row
    said = ", ".join(f"{name} is {row[name]}" for name in odd)
    say(f"void, since {said}: {row}")
    return row | dict.fromkeys(odd) | {"status": "void", "reason": said}


# what the study of decay calls a contender
WAYS = {"simple-gla": "fla-simple-gla"}


def rivals_gone(name: str, directory=None) -> str:
    """Whom a study has times of, recorded on this GPU, that is not installed here; or "".

    A new record would take the place of theirs.
    """
    import torch

    from .. import contenders

    gone = {}
    for study in recorded(name, directory):
        measured = [r for r in study.rows if r.get("status", "ok") == "ok"]
        words = {r.get(column) for r in measured for column in ("contender", "against", "way")}
        for rival in {WAYS.get(word, word) for word in words} & set(contenders.names()):
            why = contenders.get(rival).available()
            if why and study.provenance.gpu == torch.cuda.get_device_name():
                gone[rival] = why
    return "; ".join(f"{rival} ({gone[rival]})" for rival in sorted(gone))


def in_parts(parts, watch, say: Callable, begin: float) -> list[dict]:
    """The rows that each of `parts` yields of `watch`, until that is `over`.

    A part that fails leaves a row that says why, and the others go on. `begin` is when the study
    began, for what it says.
    """
    from ..runner import free, one_line

    rows = []
    for part in parts:
        before = len(rows)
        try:
            for row in part(watch):
                rows.append(row)
                if watch.over:
                    break
        except Exception as problem:
            rows.append({"part": "failed", "which": part.__name__, "reason": one_line(problem)})
        free("cuda")
        say(f"{part.__name__}: {len(rows) - before} rows, {time.monotonic() - begin:.0f} s")
        if watch.over:
            say("out of time, the rest is left out")
            break
    return rows


def read(path) -> Study:
    """Read and check the file of a study; BenchError says in one sentence what is wrong with it."""
    study = results.validated(Study, results.text_of(path), str(path), SCHEMA)
    if study.study not in names():
        raise BenchError(f"{path} holds the study {study.study!r}; known: {', '.join(names())}.")
    wrong = misfits(study.study, study.rows)
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise BenchError(f"{path} does not fit the study: {wrong[0]}{more}.")
    return study


def misfits(name: str, rows: list[dict]) -> list[str]:
    """What is wrong with the rows of a study, each as `rows.3: why`; [] where nothing is."""
    module = _module(name)
    columns, column = getattr(module, "COLUMNS", None), getattr(module, "KIND", None)
    if columns is None:
        return []
    found = ((i, _misfit(row, columns, column)) for i, row in enumerate(rows))
    return [f"rows.{i}: {why}" for i, why in found if why]


def _misfit(row: dict, columns: str | dict, column: str | None) -> str | None:
    """Why a row does not fit, or None."""
    status, reason = row.get("status", "ok"), row.get("reason")
    if status not in STATUSES:
        return f"status is {status!r}"
    good = status == "ok" and ("status" in row or not reason)
    if column is not None:
        if column not in row:
            return f"{column} is missing"
        kind = row[column]
        known = columns.get(f"{kind}, {status}", columns.get(kind))
        if known is None and (good or kind != "failed" and "status" not in row):
            kinds = (name for name in columns if "," not in name)
            return f"{column} is {kind!r}; known: {', '.join(kinds)}"
        columns = known or column
    always, _, further = columns.replace("reason", "reason?").partition("|")
    for word in [*always.split(), *(further.split() if good else ())]:
        name = word.removesuffix("?")
        if name not in row or row[name] is None and word == name:
            return f"{name} is missing"
    for name, x in row.items():
        if name in WORDS and not isinstance(x, str):
            return f"{name} is {x!r}; it has to be text"
        if x is None:
            continue
        if name in ("outside", "reason") and not isinstance(x, str):
            return f"{name} is {x!r}; it has to be text or null"
        if name == "causal" and not isinstance(x, bool):
            return f"{name} is {x!r}; it has to be true or false"
        if NUMBERS.search(name):
            if isinstance(x, bool | str):
                return f"{name} is {x!r}; it has to be a number"
            if x < 0 and name != "bytes" or x == 0 and TIMES.search(name):  # bytes are given back
                return f"{name} is {x!r}"
    return None


def recorded(name: str, directory=None) -> list[Study]:
    """What is recorded of a study, a Study for each GPU: the book's own, then newer ones."""
    _module(name)
    found = sorted(Path(directory or DIRECTORY).glob(f"*/{name}.json"))
    studies = [_trusted(read(path)) for path in found]

    def rank(study):
        architecture = (study.provenance.capability or "0").split(".")  # "12.0" is after "9.0"
        return study.provenance.slug == results.MAIN, [int(part) for part in architecture]

    return sorted(studies, key=rank, reverse=True)


def _trusted(study: Study) -> Study:
    """Without the times that an earlier clock took wrongly: it counted a part of a slow host."""

    def row(r):
        host_ms, ms = r.get("host_ms") or 0.0, r.get("median_ms") or 0.0
        if not max(HOLD_LIMIT_MS, ms) < host_ms or r.get("host_included"):
            return r
        reason = "timed by a clock that counted a part of the host"
        return r | {"status": "void", "reason": reason, "median_ms": None}

    return replace(study, rows=[row(r) for r in study.rows])


def beside(study: Study, directory=None) -> list[Study]:
    """A study and, after it, what is recorded of it on other GPUs: for figures with a switch."""
    others = recorded(study.study, directory)
    return [study, *(s for s in others if s.provenance.gpu != study.provenance.gpu)]


def study(name: str, directory=None) -> Study:
    """What a chapter shows: measured here if there are GPUs for it, else what is recorded.

    The chapters of one build measure a study once.
    Raises BenchError where there is neither a GPU nor a record.
    """
    why = "there is no GPU here"
    if hardware.has_gpu() and not enough_gpus(name):
        why = "there are fewer GPUs here than this study asks for"
    elif hardware.has_gpu():
        try:
            return _once(name)
        except Exception as problem:  # the page then shows the record, and says why
            why = f"the GPU here could not be measured ({type(problem).__name__}: {problem})"
            print(f"Shown as recorded: {why}.")
    there = recorded(name, directory)
    if not there:
        raise BenchError(
            f"{why[0].upper()}{why[1:]}, and nothing is recorded of {name!r}: "
            f"run `python -m bench study {name}` on a machine with a GPU."
        )
    return there[0]


@turns.alone()
def _once(name: str) -> Study:
    """Measured here, or by a chapter before this one of the same build."""
    build = os.environ.get(SHARED)
    place = Path(build).with_name(f"live-{name}.json") if build else None
    if place and place.exists():
        return replace(read(place), live=True)
    found = run(name, quick=True, command=f"bench.study({name!r})", say=lambda text: None)
    if place:
        results.write(found, place)
    return found


def study_or_nothing(name: str) -> Study:
    """As `study`, for a page that can be read without it.

    Where there is neither a GPU nor a record it says so, and nothing is found in the study.
    """
    try:
        return study(name)
    except BenchError as problem:
        print(f"No times on this page: {problem}")
        return nothing(name)


def completed(study: Study, *needed: dict) -> Study:
    """A study measured here, with what its quick form left out taken from the record.

    `needed` are rows that the page cannot do without, as `select` is asked for them, each with its
    `part`. Where one is missing, all rows of its part are those recorded on a GPU of the same name,
    if that record has the missing row; so no part mixes the two, and `line` says which is which.
    Where nothing that was measured here is left, it is the record.
    """
    missing = [wanted for wanted in needed if not study.select(**wanted)]
    for record in recorded(study.study) if study.live and missing else ():
        if record.provenance.gpu != study.provenance.gpu:
            continue
        parts = sorted({wanted["part"] for wanted in missing if record.select(**wanted)})
        if not parts:
            continue
        rows = [r for r in study.rows if r.get("part") not in parts]
        if not rows:
            return record
        rows += [r for r in record.rows if r.get("part") in parts]
        found = record.provenance
        borrowed = f"; {', '.join(parts)} recorded {found.date[:10]}"
        borrowed += f", commit {found.commit[:7]}" if found.commit else ""
        return replace(study, rows=rows, borrowed=borrowed)
    return study


def having(study: Study, *needed: dict) -> Study:
    """The study that has all the rows of one comparison: this one, or else a record of it.

    `needed` are those rows, as `select` is asked for them. Where a study that was measured here
    lacks one, a record that has them all is returned whole, so nothing is mixed: of a GPU of the
    same name if there is one, else of another, and its `line` names it. Without such a record it is
    the study itself; so is a record that lacks a row, for a page has to say that.
    """

    def has(one: Study) -> bool:
        return all(one.select(**wanted) for wanted in needed)

    if not study.live or has(study):
        return study
    found = filter(has, recorded(study.study))
    return min(found, key=lambda s: s.provenance.gpu != study.provenance.gpu, default=study)


def nothing(name: str) -> Study:
    """A study that was not measured: no row is found in it."""
    return Study(name, replace(hardware.provenance(), gpu="none"), [{"part": "nothing"}])


def write(study: Study, directory=None) -> Path:
    """Write a study to its place under `directory` (default: results/studies)."""
    place = Path(directory or DIRECTORY) / study.provenance.slug / f"{study.study}.json"
    return results.write(replace(study, live=False), place)


def _module(name: str):
    if name not in names():
        raise BenchError(f"There is no study {name!r}; known: {', '.join(names())}.")
    return import_module(f"{__name__}.{name.replace('-', '_')}")
