"""The study of the causal ladder, run small and without a GPU; the rows keep their form."""

import contextlib
import math
import time
from types import SimpleNamespace

import pytest

from bench import compiled, profiling, timing
from bench.studies import causal as study

CODE = compiled.Compiled({}, 4, 16, 26, 0)


@pytest.fixture
def watch(monkeypatch):
    """A watch on the host's clock with few tokens, and no compiler."""

    @contextlib.contextmanager
    def caught(kernel):
        yield [SimpleNamespace()]

    monkeypatch.setattr(study, "H", 1)
    monkeypatch.setattr(compiled, "caught", caught)
    monkeypatch.setattr(compiled, "describe", lambda kernel, sass=True: CODE)
    sampling = timing.Sampling(least=1, most=1, budget_s=0.0, warm_up=0)
    end = time.monotonic() + 600
    return study.Watch(
        timing.HostClock(), sampling, True, end, "cpu", 128, "float32", batches=(8, 1)
    )


@pytest.mark.parametrize("part", study.PARTS, ids=lambda part: part.__name__)
def test_every_part_gives_rows_that_a_study_can_hold(part, watch):
    watch.batches = (1,)
    watch.tokens = 1024 if part in (study.links, study.segment_counts) else 64
    rows = list(part(watch))
    assert rows and all(row["part"] for row in rows)
    assert all(row.get("status", "ok") == "ok" for row in rows), rows
    for row in rows:
        for value in row.values():
            assert value is None or isinstance(value, (str, bool, int, float))
            assert not isinstance(value, float) or math.isfinite(value)
    timed = [row for row in rows if "floor_ms" in row]
    assert all(row["floor_ms"] > 0 and row["median_ms"] > 0 for row in timed)


def test_each_step_is_measured_and_the_library(watch):
    watch.batches = (1,)
    rows = [row for row in study.steps(watch) if row["part"] == "step"]
    assert [row["step"] for row in rows] == [*(s.name for s in study.STEPS), "library"]


def test_a_wrong_result_is_not_timed(watch):
    ((_, row),) = watch.raced({"nan": lambda q, k, v: v * float("nan")}, 1)
    assert row["status"] == "wrong" and row["median_ms"] is None


def test_a_call_that_fails_is_said(watch):
    def fail(q, k, v):
        raise RuntimeError("out of order")

    ((_, row),) = watch.raced({"fails": fail}, 1)
    assert row["status"] == "failed" and "out of order" in row["reason"]


def test_the_profilers_rows_get_their_step():
    kernels = [
        "at::cuda::(anonymous namespace)::spin_kernel(long)",
        "recurrent_kernel",
        "cuda::<unnamed>::spin_kernel(long)",
        "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>>(int)",
        "chunked_kernel",
    ]
    bare = [profiling._bare(kernel) for kernel in kernels]
    rows = study.labelled([{"kernel": k, "status": "ok", "kind": "counters"} for k in bare])
    assert [(r["step"], r["kernel"]) for r in rows] == [
        ("recurrent", "recurrent_kernel"),
        ("chunked", "chunked_kernel"),
    ]
    (lost,) = study.labelled([{"kernel": "at::cuda::", "status": "ok"}])
    assert lost["part"] == "failed" and "at::cuda::" in lost["reason"]
    missing = [{"status": "not available", "reason": "no ncu", "kind": "counters"}]
    assert study.labelled(missing)[0]["reason"] == "no ncu"
