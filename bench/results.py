"""The record: measurements with their provenance, one JSON file for each GPU in `results/`.

A record is written without any package beside the standard library, since it is written on GPU
hosts that have no more. It is read through pydantic, which checks it against these dataclasses.
"""

import json
import math
import os
import re
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Literal

from .errors import BenchError
from .hardware import ROOT, Provenance

SCHEMA = 1
DIRECTORY = ROOT / "results"
COMPARISON = "comparison"  # the experiment that races whole operators
MAIN = "nvidia-h100-80gb-hbm3"  # the GPU that the text of the book speaks of
PARTIAL = ".partial.json"  # what a run under way, or an interrupted one, has so far

STEADY = 1.2  # the most that the 80th percentile may be over the 20th

KEY = ("experiment", "contender", "causal", "work", "B", "H", "N", "D", "Dv", "dtype")

Status = Literal["ok", "wrong", "failed", "not_installed"]


@dataclass(frozen=True)
class Measurement:
    """One contender on one shape. Times are in ms, bytes and FLOPs are the model's ideal ones.

    `status` is "ok" (verified and timed), "wrong" (refused by the gate), "failed" (it raised) or
    "not_installed"; all but "ok" have a `reason` and no times.
    """

    experiment: str
    contender: str
    causal: bool
    work: Literal["forward", "forward+backward"]
    B: int
    H: int
    N: int
    D: int
    Dv: int
    dtype: Literal["float16", "bfloat16", "float32"]
    status: Status
    reason: str | None = None
    median_ms: float | None = None  # on the device
    p20_ms: float | None = None
    p80_ms: float | None = None
    samples: int | None = None
    host_ms: float | None = None  # median time in which the host issued the call
    first_call_ms: float | None = None  # with compilation, unless a cache had it
    bytes: int | None = None
    flops: int | None = None
    floor_ms: float | None = None  # a copy of the same bytes, in the same run
    error: float | None = None  # largest relative error against float64
    verified: str | None = None  # what was compared with what
    host_included: bool | None = None  # True: the times count the host too, see timing.py
    unsteady: bool | None = None  # True: `spread` above STEADY, raced again, and still above
    raced_again: bool | None = None  # True: of a second race beside the copy, see runner.py
    floor_spread: float | None = None  # of the copy; older records lack it

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    def __post_init__(self):
        for name, value in asdict(self).items():
            number = isinstance(value, int | float)
            if number and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value!r}; it has to be finite and not negative")
            if name in ("B", "H", "N", "D", "Dv", "samples") and value is not None and value < 1:
                raise ValueError(f"{name} is {value!r}; it has to be at least 1")
        times = (self.p20_ms, self.median_ms, self.p80_ms)
        if self.status == "ok":
            needed = (*times, self.samples, self.floor_ms, self.bytes, self.flops, self.error)
            if None in needed or not self.verified:
                raise ValueError("status is 'ok' but a time, count, error or `verified` is missing")
            if not 0 < times[0] <= times[1] <= times[2]:
                raise ValueError(f"p20, median and p80 are not in order: {times}")
            for name in ("floor_ms", "bytes", "flops"):  # what ratios divide by
                if not getattr(self, name) > 0:
                    raise ValueError(f"status is 'ok' but {name} is not above 0")
        else:
            if not self.reason:
                raise ValueError(f"status is {self.status!r} but there is no reason")
            if any(t is not None for t in times):
                raise ValueError(f"status is {self.status!r} but there is a time")
            if self.unsteady or self.host_included:
                raise ValueError(
                    f"status is {self.status!r} but it is called unsteady or slow to issue"
                )

    @property
    def key(self) -> tuple:
        """What was measured: no two measurements of a record have the same."""
        return tuple(getattr(self, name) for name in KEY)

    @property
    def ok(self) -> bool:
        """Whether it was verified and timed."""
        return self.status == "ok"

    @property
    def share_of_floor(self) -> float:
        """Copy time over time: 1.0 is the speed of a copy of the ideal bytes."""
        return self.floor_ms / self.median_ms

    @property
    def spread(self) -> float:
        """80th percentile over 20th: 1.0 where all samples agree."""
        return self.p80_ms / self.p20_ms

    @property
    def void(self) -> bool:
        """Whether nothing may be made of its time, since its samples disagree."""
        return self.ok and (bool(self.unsteady) or self.spread > STEADY)

    @property
    def floor_void(self) -> bool:
        """Whether nothing may be made of its time and the copy's, since samples of one disagree."""
        return self.void or (self.floor_spread or 1.0) > STEADY

    @property
    def host_bound(self) -> bool:
        """Whether the host needs longer to issue the call than the device to run it."""
        return self.host_ms is not None and self.host_ms > self.median_ms


@dataclass(frozen=True)
class Record:
    """All measurements of one run on one GPU.

    `live` is True for what this process (or this build) measured, False for what is recorded; no
    file says so.
    """

    provenance: Provenance
    measurements: list[Measurement] = field(default_factory=list)
    complete: bool = False
    schema_version: Literal[1] = SCHEMA
    live: bool = False

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    def check(self) -> None:
        """What a file has to hold beside its types; ValueError says what is missing."""
        check_provenance(self.provenance)
        if not self.measurements:
            raise ValueError("it holds no measurement")
        (key, times), *_ = Counter(m.key for m in self.measurements).most_common(1)
        if times > 1:
            raise ValueError(f"{times} measurements of one case: {' '.join(map(str, key))}")

    @property
    def line(self) -> str:
        """One line of provenance."""
        return self.provenance.line(live=self.live)

    def select(self, **wanted) -> list[Measurement]:
        """Measurements whose fields equal what is asked for: `select(B=8, causal=True)`.

        Those of the comparison, unless another `experiment` is asked for.
        """
        wanted = {"experiment": COMPARISON} | wanted
        return [m for m in self.measurements if all(getattr(m, k) == v for k, v in wanted.items())]

    def one(self, **wanted) -> Measurement | None:
        """The first measurement that `select` finds, or None."""
        return next(iter(self.select(**wanted)), None)

    def values(self, name: str) -> list:
        """The distinct values of a field, sorted: `values("N")`."""
        return sorted({getattr(m, name) for m in self.measurements})

    def contenders(self) -> list[str]:
        """Contenders of the comparison in the order in which they were measured."""
        return list(dict.fromkeys(m.contender for m in self.select()))

    def frame(self):
        """A pandas DataFrame with one row for each measurement."""
        import pandas

        return pandas.DataFrame([asdict(m) for m in self.measurements])

    def to_json(self) -> str:
        """JSON with one measurement a line, so that a new run reads well as a diff."""

        def line(item):
            known = {k: rounded(v) for k, v in asdict(item).items() if v is not None}
            return json.dumps(known, allow_nan=False)

        rows = ",\n  ".join(line(m) for m in self.measurements)
        return (
            f'{{"schema_version": {self.schema_version},\n'
            f' "complete": {json.dumps(self.complete)},\n'
            f' "provenance": {line(self.provenance)},\n'
            f' "measurements": [\n  {rows}\n ]}}\n'
        )


def check_provenance(provenance: Provenance) -> None:
    """ValueError where files cannot be named by its slug, or its date is none."""
    if not re.fullmatch("[a-z0-9-]+", provenance.slug):
        raise ValueError(f"slug is {provenance.slug!r}; it has to be of a-z, 0-9 and -")
    try:
        datetime.strptime(provenance.date, "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        raise ValueError(
            f"date is {provenance.date!r}; it has to be like 2026-01-31T12:00:00Z"
        ) from None


def rounded(value):
    """Times to five significant digits: more is noise, and makes the file larger."""
    return float(f"{value:.5g}") if isinstance(value, float) else value


def write(record: Record, path) -> Path:
    """Write a record so that a reader finds the old file or the new one, never a half."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + f".{os.getpid()}.tmp")
    try:
        scratch.write_text(record.to_json(), encoding="utf-8")
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    return path


def read(path) -> Record:
    """Read and check a results file; BenchError says in one sentence what is wrong with it."""
    return parse(text_of(path), str(path))


def reopen(path) -> Record:
    """What this bench itself wrote on this machine, to go on from there: needs no pydantic.

    Raises BenchError where the file does not fit.
    """
    try:
        data = json.loads(text_of(path))
        if data.pop("schema_version") != SCHEMA:
            raise ValueError("another schema_version")
        provenance = Provenance(**data.pop("provenance"))
        measurements = [Measurement(**row) for row in data.pop("measurements")]
        return Record(provenance, measurements, **data)
    except (ValueError, TypeError, KeyError, AttributeError) as problem:
        raise BenchError(f"{path} is not a record to go on from: {problem}.") from None


def text_of(path) -> str:
    """The text of a results file."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BenchError(f"There is no results file {path}.") from None
    except (OSError, UnicodeDecodeError) as problem:
        raise BenchError(f"The results file {path} cannot be read: {problem}.") from None


def parse(text: str, name: str) -> Record:
    """A record from JSON text; `name` is what messages call it."""
    return validated(Record, text, name, SCHEMA)


def validated(kind: type, text: str, name: str, schema: int):
    """A dataclass of that kind from JSON text, checked; `name` is what messages call the text."""
    try:
        from pydantic import TypeAdapter, ValidationError
    except ImportError:
        raise BenchError(
            "Reading results needs pydantic, which is not installed: pip install pydantic"
        ) from None
    try:
        data = json.loads(text)
    except json.JSONDecodeError as problem:
        raise BenchError(f"{name} is not JSON: {problem}.") from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != schema:
        raise BenchError(
            f"{name} has schema_version {version!r}; this version of the book reads {schema}."
        )
    try:
        found = replace(TypeAdapter(kind).validate_python(data), live=False)
        found.check()
        return found
    except ValidationError as problem:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        more = f" (and {problem.error_count() - 1} more)" if problem.error_count() > 1 else ""
        raise BenchError(
            f"{name} does not fit the schema: {where}: {first['msg']}{more}."
        ) from None
    except ValueError as problem:
        raise BenchError(f"{name} does not fit the schema: {problem}.") from None


def available(directory=None) -> list[str]:
    """Slugs of the GPUs of which `results/` holds a record."""
    directory = Path(directory or DIRECTORY)
    return sorted(
        p.name[: -len(".json")]
        for p in directory.glob("*.json")
        if not p.name.endswith(PARTIAL) and not p.name.startswith(".")
    )


def load(slug: str, directory=None) -> Record:
    """The record of a GPU by its slug, as `available` lists them."""
    directory = Path(directory or DIRECTORY)
    known = available(directory)
    if slug not in known:
        there = ", ".join(known) if known else "none"
        raise BenchError(f"There is no record of {slug!r} in {directory.name}/; known: {there}.")
    return read(directory / f"{slug}.json")


def best_recorded(directory=None) -> Record:
    """The record to show where there is no GPU: the book's GPU, MAIN.

    Without it the one with the most verified measurements, then the newest.
    """
    records = [load(slug, directory) for slug in available(directory)]
    if not records:
        raise BenchError(
            "There is no record in results/: run `python -m bench run` on a machine with a GPU."
        )

    def rank(record):
        verified = sum(m.ok for m in record.measurements)
        return record.provenance.slug == MAIN, verified, record.provenance.date

    return max(records, key=rank)
