"""The study of launches without a GPU: samples are laid beside the launches that went before."""

import random
from types import SimpleNamespace

import pytest
import torch

from bench import reports, studies, timing
from bench.hardware import provenance
from bench.studies import launches
from bench.timing import DeviceClock, HostClock

SMALL = {"H": 1, "N": 32, "D": 16, "Dv": 16, "dtype": "float32"}


class Ring(HostClock):
    """A device on which one launch of four takes twice as long; a call launches `kernels`."""

    def __init__(self, kernels=1, slow=3, late=()):
        self.kernels, self.slow, self.late = kernels, slow, set(late)
        self.launched = self.taken = 0
        self.before = random.Random(1)

    def hold_ms(self, host_ms):
        return 1.0

    def sample(self, call, host_ms=0.0, before=0):
        call()
        self.launched += before + launches.OF_A_SAMPLE
        device_ms = 2.0 if self.launched % 4 == self.slow else 1.0
        self.launched += self.kernels
        self.taken += 1
        return device_ms, 9.0 if self.taken in self.late else 0.1


@pytest.mark.parametrize("kernels", [1, 2, 4, 7])
@pytest.mark.parametrize("slow", range(4))
def test_the_slow_launch_is_found_wherever_it_is(kernels, slow):
    clock = Ring(kernels, slow, late=range(10, 30))
    taken = launches.samples(lambda: None, clock, 200)
    assert sum(ms is None for _, ms in taken) == 20, "those that the host outlasted do not count"
    found = launches.by_phase(taken, kernels)
    assert [set(times) for times in found] == [{2.0}, {1.0}, {1.0}, {1.0}]
    wrong = launches.by_phase(taken, kernels + 1)
    assert len(set(wrong[0])) == 2, "with a wrong number of launches the phases are mixed"


def test_a_phase_without_a_sample_is_no_result():
    with pytest.raises(ValueError, match="too slow"):
        launches.by_phase([(0, 1.0), (0, None)], 1)


needs_interpreter = pytest.mark.skipif(torch.cuda.is_available(), reason="a rehearsal on a CPU")


@pytest.fixture
def rows(monkeypatch):
    monkeypatch.setattr(launches, "SOME", ("eager", "fla-chunk"))
    monkeypatch.setattr(launches, "COUNTS", (1, 3))
    monkeypatch.setattr(launches, "launches_of", lambda call: 1)
    return launches.measure(False, lambda text: None, Ring(), "cpu", **SMALL)


@needs_interpreter
def test_every_row_says_its_phase_or_why_it_has_none(rows):
    assert not studies.misfits("launches", rows)
    own = [r for r in rows if r["part"] == "arguments"]
    assert [(r["arguments"], r["phase"]) for r in own] == [(n, p) for n in (1, 3) for p in range(4)]
    assert [r["median_ms"] for r in own[:4]] == [2.0, 1.0, 1.0, 1.0]
    assert sum(r["samples"] for r in own[:4]) == launches.SAMPLES
    theirs = [r for r in rows if r["part"] == "contenders"]
    assert [(r["contender"], r["causal"], r["status"] == "ok") for r in theirs] == [
        *[("eager", False, True)] * 4, ("fla-chunk", False, False),
        *[("eager", True, True)] * 4, ("fla-chunk", True, False),
    ]  # fmt: skip
    assert all(r["reason"] for r in theirs if r["status"] != "ok")


@needs_interpreter
def test_the_report_sets_the_slow_launch_beside_the_others(rows):
    own, theirs = reports.launches(studies.Study("launches", provenance(), rows))
    assert own.rows[0] == ["1", "8", "2000", "1000", "2.000"]
    assert theirs.rows[0][2:] == ["1", "2000", "1000", "2.000"]
    assert theirs.rows[1][3:] == ["–"] * 3 and theirs.notes[1, 2] == rows[-1]["reason"]
    assert theirs.caption.startswith("(1, 1, 32, 16), forward, median")


@needs_interpreter
def test_a_call_that_breaks_leaves_a_row(monkeypatch):
    def broken(call):
        raise RuntimeError("no profiler")

    monkeypatch.setattr(launches, "SOME", ("eager",))
    monkeypatch.setattr(launches, "launches_of", broken)
    found = launches.measure(True, lambda text: None, Ring(), "cpu", **SMALL)
    failed = [r for r in found if r["status"] != "ok"]
    assert [r["reason"] for r in failed] == ["RuntimeError: no profiler"] * 2


@needs_interpreter
def test_a_host_that_is_too_slow_leaves_a_row(monkeypatch):
    monkeypatch.setattr(launches, "SOME", ())
    found = launches.measure(True, lambda text: None, Ring(late=range(10_000)), "cpu", **SMALL)
    assert [r["arguments"] for r in found] == list(launches.QUICK_COUNTS)
    assert all(r["status"] == "failed" and "too slow" in r["reason"] for r in found)


def test_copies_are_no_launches(monkeypatch):
    found = [{"kernel": "a_kernel", "launches": 2.0}, {"kernel": "Memcpy DtoD", "launches": 1.0}]
    monkeypatch.setattr(launches.profiling, "kernel_times", lambda call, repeats: found)
    assert launches.launches_of(lambda: None) == 2


def test_a_sample_begins_with_none_to_three_empty_kernels(monkeypatch):
    done = []
    monkeypatch.setattr(timing.torch.cuda, "_sleep", lambda cycles: done.append(cycles))
    event = SimpleNamespace(
        record=lambda: done.append("event"), synchronize=lambda: None, elapsed_time=lambda end: 1.0
    )
    clock = DeviceClock.__new__(DeviceClock)  # without a GPU
    clock.buffer = SimpleNamespace(zero_=lambda: done.append("flush"))
    clock.start = clock.end = event
    clock.cycles_per_ms, clock.before = 1e6, random.Random(0)
    seen = []
    for _ in range(400):
        done.clear()
        clock.sample(lambda: done.append("call"))
        seen.append(done.index("flush"))
        assert done == [0] * seen[-1] + ["flush", 100000, "event", "call", "event"]
    assert set(seen) == {0, 1, 2, 3} and min(map(seen.count, range(4))) > 60
    done.clear()
    clock.sample(lambda: None, before=2)
    assert done[:3] == [0, 0, "flush"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: launches")
def test_launches_of_a_call_are_counted():
    x = torch.ones(1000, device="cuda")
    assert launches.launches_of(lambda: x.add_(1).mul_(2)) == 2
