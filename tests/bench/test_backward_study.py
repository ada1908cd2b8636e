"""The study of the backward pass: its parts, what is wrong is not timed, and time runs out."""

import time
from types import SimpleNamespace

import pytest
import torch

from bench import hardware, passes, profiling, studies, truth
from bench.studies import backward
from bench.timing import HostClock, Sampling

ONCE = Sampling(least=1, most=1, budget_s=0.0, warm_up=0)


@pytest.fixture
def watch(monkeypatch):
    """The study with the CPU in place of the GPU, one short head, one sample."""

    def profiled(call, repeats):
        call()
        return [
            {"kernel": "backward_key_kernel", "launches": 1.0, "ms": 1.0, "share": 0.9},
            {"kernel": "combine_kernel", "launches": 1.0, "ms": 0.1, "share": 0.1},
        ]

    monkeypatch.setattr(profiling, "kernel_times", profiled)
    end = time.monotonic() + 1000
    return backward.Watch(
        HostClock(), ONCE, True, end, "float32", "cpu", H=1, N=80, lengths=(64,), batches=(2, 1)
    )


def rows_of(watch):
    said = []
    rows = backward.measure(watch.quick, said.append, watch)
    study = studies.Study("backward", hardware.Provenance("", "", "", "", "", ""), rows)
    assert len(said) == 22
    return study


def test_all_parts_are_there_and_right(watch):
    wrong = {"a term missing"}
    study = rows_of(watch)
    assert {r["part"] for r in study.rows} == {
        "operator", "memory", "kernel", "variant", "accuracy",
    }  # fmt: skip
    for row in study.select(part="operator"):
        assert row["status"] in ("ok", "failed"), row
        if row["contender"].startswith("sdpa"):  # takes no float32
            assert "does not take" in row["reason"]
            continue
        assert row["status"] == "ok" and row["error"] < 1e-5
        assert row["median_ms"] > 0 and row["floor_ms"] > 0
    works = {r["work"] for r in study.select(part="operator", contender="book")}
    assert works == {"forward", "backward", "forward+backward"}
    for row in study.select(part="variant"):
        assert row["status"] == ("wrong" if row["variant"] in wrong else "ok"), row
        assert (row["median_ms"] is None) == (row["variant"] in wrong)
    for row in study.select(part="accuracy"):
        assert all(row[f"error_{name}"] < 1e-5 for name in ("o", "dq", "dk", "dv"))
    assert len({r["variant"] for r in study.select(part="variant")}) == 5
    assert {r["mean"] for r in study.select(part="accuracy", contender="centred")} == {0, 1}
    keys = study.select(part="kernel", kernel="backward_key_kernel", causal=False)
    assert [r["bytes"] for r in keys] == [4 * B * 80 * 64 * 4 for B in (2, 1)]
    assert all(r["bytes"] is None for r in study.select(part="kernel", kernel="combine_kernel"))


def test_compiling_takes_no_time_from_measuring(monkeypatch):
    now = [0.0]

    def compiling(watch):
        now[0] += 10 * backward.QUICK_S

    def job(watch, B, causal, *names):
        now[0] += backward.QUICK_S / 4
        return [{"part": "planted", "status": "ok"}]

    monkeypatch.setattr(backward, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("bench.timing.DeviceClock", lambda: None)
    monkeypatch.setattr(backward, "compile_all", compiling)
    for name in ("operators", "kernels_alone", "variants", "accuracy"):
        monkeypatch.setattr(backward, name, job)
    rows = backward.measure(True, lambda text: None)
    assert [r["status"] for r in rows] == 5 * ["ok"] + 17 * ["skipped"]


def test_backward_bytes_are_seven_tensors(watch):
    shape = watch.shape(2, False)
    tensor = 2 * 80 * 64 * 4
    assert backward.ideal(shape, "backward") == 7 * tensor
    assert passes.moved(passes.BACKWARD[False], shape) == 7 * tensor


def test_a_wrong_gradient_is_not_timed(watch, monkeypatch):
    right = truth.linear_attention

    def other(*args, **options):
        found = right(*args, **options)
        return found | {"dk": found["dk"] * 1.01}

    monkeypatch.setattr(truth, "linear_attention", other)
    rows = backward.operators(watch, 1, False, "eager")
    assert [r["status"] for r in rows] == ["wrong"]
    assert "dk" in rows[0]["reason"] and "median_ms" not in rows[0]


def test_what_fails_or_comes_too_late_says_so(watch, monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(backward, "variants", full)
    full.__name__ = "variants"
    monkeypatch.setattr(backward, "operators", lambda *args: [])
    backward.operators.__name__ = "operators"
    study = rows_of(watch)
    assert [r["status"] for r in study.select(part="variant")] == ["failed", "failed"]
    watch.end = 0
    late = rows_of(watch)
    assert {r["status"] for r in late.rows} == {"skipped"}
    assert {r["part"] for r in late.rows} >= {"operator", "kernel", "variant", "accuracy"}


def test_an_argument_that_no_study_has(watch):
    with pytest.raises(studies.BenchError):
        backward.entrant("nobody")
