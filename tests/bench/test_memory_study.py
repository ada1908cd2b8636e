"""The study of the memory: every experiment runs, and one that fails stays alone."""

import pytest
import torch

from bench import studies
from bench.studies import memory_hierarchy as study
from bench.timing import HostClock, Sampling


@pytest.fixture
def rehearsal(monkeypatch):
    """A Bench without a GPU: tiny sizes, in the interpreter, with times that mean nothing."""
    monkeypatch.setattr(study, "QUICK", Sampling(least=1, most=1, budget_s=0.0, warm_up=1))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return study.Bench(True, clock=HostClock(), device="cpu", multiprocessors=2)


needs_interpreter = pytest.mark.skipif(torch.cuda.is_available(), reason="a rehearsal on a CPU")


@needs_interpreter
def test_every_experiment_runs(rehearsal):
    said = []
    rows = study.measure(True, said.append, rehearsal)
    assert {row["experiment"] for row in rows} == set(study.EXPERIMENTS)
    bad = [row for row in rows if row["status"] != "ok"]
    assert not bad, bad
    assert len(said) == len(study.EXPERIMENTS)
    assert studies.Study("memory-hierarchy", None, rows).select(experiment="banks", ways=32)
    for row in rows:
        assert all(v is None or isinstance(v, (str, int, float, bool)) for v in row.values())


@needs_interpreter
def test_what_is_compiled_before_is_little_of_every_experiment(monkeypatch):
    monkeypatch.setattr(study, "QUICK", Sampling(least=1, most=1, budget_s=0.0, warm_up=0))
    bench = study.Bench
    small = lambda quick, clock: bench(quick, clock, device="cpu", multiprocessors=2)  # noqa: E731
    monkeypatch.setattr(study, "Bench", small)
    seen = {}

    def at_once(calls):
        for name, call in zip(study.EXPERIMENTS, calls, strict=True):
            seen[name] = {row["status"] for row in call()}

    monkeypatch.setattr(study.compiled, "at_once", at_once)
    study.compile_all()
    assert seen == dict.fromkeys(study.EXPERIMENTS, {"ok"})


@needs_interpreter
def test_one_that_fails_leaves_a_row_and_the_others(rehearsal, monkeypatch):
    def broken(bench):
        yield {"n": 1, "status": "ok"}
        raise RuntimeError("out of\n order")

    experiments = {"broken": broken, "banks": study.Bench.banks}
    monkeypatch.setattr(study, "EXPERIMENTS", experiments)
    rows = study.measure(True, lambda text: None, rehearsal)
    failed = [row for row in rows if row["status"] == "failed"]
    assert failed[-1]["reason"] == "RuntimeError: out of order"
    assert any(row["experiment"] == "banks" and row["status"] == "ok" for row in rows)


@needs_interpreter
def test_a_call_that_raises_is_a_row_without_times(rehearsal):
    def call():
        raise MemoryError("full")

    row = rehearsal.time(call, n=3)
    assert row == {"n": 3, "status": "failed", "reason": "MemoryError: full"}


@pytest.mark.parametrize(
    "step, turns", [(0, 1), (1, 1), (2, 2), (3, 1), (8, 8), (32, 32), (33, 1), (64, 32), (128, 16)]
)
def test_ways(step, turns):
    assert study.ways(step) == turns


def test_the_study_is_known():
    assert "memory-hierarchy" in studies.names()
    assert "bandwidth" in studies.about("memory-hierarchy")
