"""A record with made-up numbers, for tests alone: times grow with N, floors are the ideal bytes."""

from dataclasses import replace

import pytest

from bench import contenders
from bench.hardware import Provenance
from bench.results import Measurement, Record
from bench.roofline import WORKS, Shape, ideal_bytes, ideal_flops

SLOWNESS = {"book": 1.5, "eager": 12.0, "sdpa-flash": 40.0, "sdpa-cudnn": 25.0}


def made_up(contender: str, shape: Shape, work: str, **changes) -> Measurement:
    """One measurement that is consistent and means nothing."""
    nbytes = ideal_bytes(shape, work)
    floor_ms = 0.002 + nbytes / 3e9
    time_ms = floor_ms * SLOWNESS[contender] * (shape.N / 512 if "sdpa" in contender else 1)
    fields = {
        "experiment": "comparison",
        "contender": contender,
        "causal": shape.causal,
        "work": work,
        "B": shape.B,
        "H": shape.H,
        "N": shape.N,
        "D": shape.D,
        "Dv": shape.Dv,
        "dtype": shape.dtype,
        "status": "ok",
        "median_ms": time_ms,
        "p20_ms": time_ms * 0.99,
        "p80_ms": time_ms * 1.02,
        "samples": 50,
        "host_ms": 0.04,
        "first_call_ms": 120.0,
        "bytes": nbytes,
        "flops": ideal_flops(shape, work, contenders.get(contender).function.family),
        "floor_ms": floor_ms,
        "error": 0.003,
        "verified": "o of heads 0, 1 against float64",
    }
    return Measurement(**(fields | changes))


def refused(contender: str, shape: Shape, work: str, status: str, reason: str) -> Measurement:
    """A measurement without times."""
    times = ("median_ms", "p20_ms", "p80_ms", "samples", "host_ms", "floor_ms")
    nothing = dict.fromkeys((*times, "error", "verified"))
    return made_up(contender, shape, work, status=status, reason=reason, **nothing)


def made_up_record(lengths=(512, 4096, 65536), batches=(8, 1), **facts) -> Record:
    """A whole record of a GPU that does not exist; flash fails at the largest N."""
    measurements = []
    for n in lengths:
        for B in batches:
            for causal in (False, True):
                for work in WORKS:
                    shape = Shape(B, 8, n, causal=causal)
                    for name in SLOWNESS:
                        if name == "sdpa-flash" and n == max(lengths):
                            m = refused(name, shape, work, "failed", "out of <memory>")
                        else:
                            m = made_up(name, shape, work)
                        measurements.append(m)
    known = {
        "gpu": "Made-up GPU 1",
        "slug": "made-up-gpu-1",
        "date": "2026-01-02T03:04:05Z",
        "command": "python -m bench run",
        "python": "3.12.0",
        "torch": "2.11.0",
        "triton": "3.6.0",
        "commit": "0123456789abcdef",
        "dirty": False,
    }
    return Record(Provenance(**(known | facts)), measurements, complete=True)


@pytest.fixture
def record() -> Record:
    """A made-up record."""
    return made_up_record()


@pytest.fixture
def make_record():
    """`made_up_record`, to be called with other arguments."""
    return made_up_record


@pytest.fixture
def make_measurement():
    """`made_up`, to be called with other arguments."""
    return made_up


def shaken(record: Record, who=None, floor: bool = False) -> Record:
    """The same with the samples of everybody (or of `who`) far apart; or those of the copies."""

    def change(m):
        if not m.ok or who not in (None, m.contender):
            return m
        if floor:
            return replace(m, floor_spread=1.5)
        return replace(m, p20_ms=m.median_ms / 1.2, p80_ms=m.median_ms * 1.2)

    return replace(record, measurements=[*map(change, record.measurements)])


@pytest.fixture
def shake():
    """`shaken`, to be called with a record."""
    return shaken


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(contenders, "_registry", dict(contenders._registry))
