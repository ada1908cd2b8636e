"""The study of decay: its parts, what is wrong is not timed, and time runs out."""

import time

import pytest
import torch

from bench import hardware, studies
from bench.studies import decay
from bench.timing import HostClock, Sampling

ONCE = Sampling(least=1, most=1, budget_s=0.0, warm_up=0)


@pytest.fixture
def watch():
    """The study with the CPU in place of the GPU, one short head, one sample."""
    return decay.Watch(
        HostClock(), ONCE, False, time.monotonic() + 1000, "float32", "cpu",
        heads=1, tokens=40, batches=(2, 1), lengths=(32,),
    )  # fmt: skip


def rows_of(watch):
    said = []
    rows = decay.measure(watch.quick, said.append, watch)
    assert len(said) == (4 if watch.quick else 6)
    return studies.Study("decay", hardware.Provenance("", "", "", "", "", ""), rows)


def test_all_parts_are_there_and_right(watch, monkeypatch):
    few = ("plain", "selective", "simple-gla")  # the interpreter is slow
    monkeypatch.setattr(decay, "WAYS", {n: decay.WAYS[n] for n in few})
    monkeypatch.setattr(decay, "HORIZONS", decay.HORIZONS[::3])
    study = rows_of(watch)
    assert {r["part"] for r in study.rows} == {"time", "length", "accuracy"}
    for row in [*study.select(part="time"), *study.select(part="length")]:
        if row["way"] == "simple-gla":  # its kernels need a GPU, where they are installed
            assert row["status"] == "failed" and row["reason"]
            continue
        assert row["status"] == "ok" and row["error"] < 1e-5, row
        assert row["median_ms"] > 0 and row["floor_ms"] > 0
    both = study.select(part="time", way="selective", work="forward+backward")
    assert {(r["B"], r["causal"]) for r in both} == {(b, c) for b in (1, 2) for c in (True, False)}
    assert all(r["decay_error"] < 1e-4 for r in both)
    errors = study.select(part="accuracy")
    assert [r["horizon"] for r in errors] == [1, 64, 4096, None][: len(errors)]
    assert all(r["o_error"] < 1e-5 and r["dv_error"] < 1e-5 for r in errors)


def test_in_quick_form_there_are_forward_passes_of_many_heads(watch, monkeypatch):
    monkeypatch.setattr(decay, "WAYS", {n: decay.WAYS[n] for n in ("fixed", "selective")})
    monkeypatch.setattr(decay, "HORIZONS", decay.HORIZONS[-1:])
    watch.quick = True
    study = rows_of(watch)
    found = {(r["B"], r["causal"], r["work"], r["status"]) for r in study.select(part="time")}
    assert found == {(2, causal, "forward", "ok") for causal in (True, False)}
    assert study.select(part="length", status="ok") and study.select(part="accuracy", status="ok")


def test_what_is_wrong_is_not_timed(watch, monkeypatch):
    right = decay.call_of

    def wrong(way, causal):
        call = right(way, causal)
        return (lambda *x: call(*x) * 1.5) if way.decay == "selective" else call

    monkeypatch.setattr(decay, "call_of", wrong)
    rows = list(decay.raced(watch, "time", 1, True, ("plain", "selective"), gradients=False))
    assert [r["status"] for r in rows] == ["ok", "wrong"]
    assert rows[1]["median_ms"] is None and "relative error" in rows[1]["reason"]


def test_a_wrong_gradient_of_the_decay_is_found(watch, monkeypatch):
    monkeypatch.setattr(decay, "slope_error", lambda slope, truth: 0.5)
    rows = list(decay.raced(watch, "time", 1, True, ("selective",), gradients=True))
    assert all(r["status"] == "wrong" and "ddecay" in r["reason"] for r in rows)


def test_a_way_without_a_backward_pass_has_a_forward_pass(watch, monkeypatch):
    right = decay.call_of

    def no_backward(way, causal):
        call = right(way, causal)
        return lambda *x: call(*(y if y is None else y.detach() for y in x))

    monkeypatch.setattr(decay, "call_of", no_backward)
    forward, both = decay.raced(watch, "time", 1, True, ("selective",), gradients=True)
    assert forward["status"] == "ok" and forward["median_ms"] > 0
    assert both["status"] == "failed" and "grad" in both["reason"]


def test_when_time_is_over_it_says_so(watch):
    watch.end = 0.0
    study = rows_of(watch)
    assert all(r["status"] == "skipped" for r in study.rows) and len(study.rows) == 6


def test_horizons_are_what_they_are_called():
    for horizon in (2, 64, 4096):
        factor = torch.tensor(decay.log_decay(horizon), dtype=torch.float64).exp()
        assert abs(1 / (1 - factor) - horizon) < 1e-6 * horizon
    assert decay.log_decay(None) == 0 and decay.log_decay(1) == -100
    assert torch.allclose(decay.retnet(2).exp(), torch.tensor([1 - 1 / 32, 1 - 1 / 64]))
