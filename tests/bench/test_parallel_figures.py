"""The figures and the model of one sequence over many GPUs, from a small study made here."""

from dataclasses import replace

import pytest
import torch

from bench import hardware, results, scaling, studies, tables
from bench import parallel_figures as figures

GPU = hardware.Provenance("NVIDIA Test", "test", "2026-01-31T00:00:00Z", "", "3.12", "2.11")
LENGTHS = (2**18, 2**19, 2**20)


def call(ranks, N, causal, work, way, ms):
    what = "piece" if ranks == 1 and way == "both" else "call"
    return {
        "what": what, "ranks": ranks, "N": N, "causal": causal, "work": work, "way": way,
        "status": "ok", "device_ms": ms, "eager_ms": 2 * ms, "spread": 1.0,
    }  # fmt: skip


@pytest.fixture
def study():
    """A GPU with 0.01 ms for nothing and 1 ms for a million tokens; an exchange takes 0.02 ms."""
    rows = []
    for causal, work in figures.ORDERS:
        factor = 3 if "backward" in work else 1
        for N in LENGTHS:
            one = factor * (0.01 + N / 2**20)
            rows += [call(1, N, causal, work, way, one) for way in ("one-gpu", "both")]
            two = factor * (0.01 + N / 2**21) + 0.02
            rows += [call(2, N, causal, work, way, two) for way in figures.WAYS]
    for op in ("all-gather", "all-reduce"):
        for nbytes, us in ((133120, 20.0), (2**20, 40.0)):
            rows.append(
                {"what": "exchange", "op": op, "ranks": 2, "bytes": nbytes, "device_us": us,
                 "host_us": us, "status": "ok"}
            )  # fmt: skip
    return studies.Study("sequence-parallel", GPU, rows)


@pytest.fixture
def record():
    """The same GPU, in a race of whole operators."""
    return results.Record(GPU, [
        results.Measurement(
            "comparison", "book", causal, "forward", 1, 8, N, 64, 64, "bfloat16", "ok",
            None, *(0.01 + N / 2**20,) * 3, 9, bytes=1, flops=1, floor_ms=1.0, error=0.0,
            verified="o",
        )
        for causal in (False, True) for N in (2**9, 2**12, 2**14, 2**16)
    ])  # fmt: skip


def test_the_model_finds_its_constants_again(study):
    model = scaling.of(study, True, "forward")
    assert model.fixed_ms == pytest.approx(0.01)
    assert model.token_ms == pytest.approx(2**-20)
    assert (model.exchange_ms, model.exchanges) == (0.02, 1)
    assert model.time_ms(2**20, 2, "rounds") == pytest.approx(0.01 + 0.5 + 0.02)
    assert model.time_ms(2**20, 8, "in a row") == pytest.approx(0.01 + 0.125 + 7 * 0.02)
    assert model.time_ms(2**20, 8, "rounds") == pytest.approx(0.01 + 0.125 + 3 * 0.02)
    both = scaling.of(study, False, "forward+backward")
    assert both.time_ms(2**20, 8, "rounds") == pytest.approx(0.03 + 0.375 + 2 * 5 * 0.02)
    assert both.time_ms(2**20, 2, "rounds") == pytest.approx(0.03 + 1.5 + 2 * 0.02)


def test_ranks_at_half(study):
    model = scaling.of(study, True, "forward")
    for way in scaling.WAYS:
        n = model.ranks_at_half(2**24, way)
        assert model.speedup(2**24, n, way) >= n / 2
        assert model.speedup(2**24, 2 * n, way) < n
    assert model.ranks_at_half(2**24, "rounds") > model.ranks_at_half(2**24, "in a row")


def test_a_model_needs_its_measurements(study, record):
    some = replace(study, rows=[r for r in study.rows if r["what"] != "exchange"])
    assert scaling.of(some, True, "forward") is None
    empty = replace(record, measurements=[])
    assert scaling.on_paper(empty, True, "forward", 0.02) is None
    assert isinstance(figures.on_paper([empty], [2**20], 0.02), tables.Table)


def test_the_times_of_one_gpu_and_an_assumption_are_a_model(record):
    model = scaling.on_paper(record, True, "forward", 0.02)
    assert model.fixed_ms == pytest.approx(0.01) and model.token_ms == pytest.approx(2**-20)
    assert model.exchange_ms == 0.02 and not model.doubled


def test_what_was_measured_on_one_gpu_is_not_taken_for_more(study, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert figures.measured(tmp_path) is None
    alone = [r for r in study.rows if r.get("ranks") == 1]
    studies.write(replace(study, rows=alone), tmp_path)
    assert figures.measured(tmp_path) is None
    studies.write(study, tmp_path)
    assert len(figures.measured(tmp_path).rows) == len(study.rows)


def test_bytes_sent():
    assert scaling.sent_bytes(2**20, 2, "state") == 4 * 8 * (64 * 64 + 64)
    assert scaling.sent_bytes(2**20, 2, "ring") == 2 * 2 * 8 * 64 * 2**19
    assert scaling.sent_bytes(2**20, 4, "heads") == 4 * 2 * 8 * 64 * 2**18 * 3 / 4
    figure = figures.bytes_sent([2, 64], [2**16, 2**24])
    figure.plotly()
    assert figure.switches[0].options == ["2 ranks", "64 ranks"]
    assert len(figure.data) == 3 + 2  # 8 heads are not enough for 64 ranks
    states = [t for t in figure.data if t["name"] == "states (this chapter)"]
    assert states[0]["y"][0] == states[0]["y"][1] == pytest.approx(133120 / 2**20)


def test_times_and_speedups(study):
    figure = figures.times([study])
    figure.plotly()
    assert len(figure.switches[0].options) == 4
    assert [t["name"] for t in figure.data[:2]] == ["1 GPU, linear_attention", "2 GPUs"]
    two = figures.strong(study)
    assert two[True, "forward", 2**20, "both"] == pytest.approx(1.01 / 0.53)
    grown = figures.weak(study)
    assert grown[True, "forward", 2**18] == pytest.approx((0.01 + 0.25 + 0.02) / 0.26)
    figure = figures.speedups([study])
    figure.plotly()
    assert figure.data[0]["y"][-1] == pytest.approx(1.01 / 0.53)
    assert "as it comes 1.91 at 1M" in figure.alt


def test_findings_are_figures_and_decided_claims(study):
    found = figures.findings(study)
    claims = [x for x in found if hasattr(x, "held")]
    assert len(claims) == 3
    found = {c.sentence.split(",")[0]: c.held for c in claims}
    assert found == {
        "Two GPUs are at least 1.8 times as fast at 4M tokens": None,
        "From 2M tokens a GPU on": None,
        "On two GPUs the model is right within 15 percent from 1M tokens on": True,
    }
    assert figures.findings(None) == ["No machine with several GPUs has been measured yet."]


@pytest.mark.parametrize("factor", [1.0, 1.3])
def test_the_claims_are_decided_by_the_times(factor):
    rows = [
        call(n, N, *order, way, (0.01 + N / n / 2**20) * (factor if n == 2 else 1))
        for order in figures.ORDERS
        for N in (2**20, 2**21, 2**22)
        for n, way in ((1, "one-gpu"), (1, "both"), (2, "both"))
    ] + [
        {"what": "exchange", "op": op, "ranks": 2, "bytes": 8, "device_us": 1.0, "host_us": 1.0,
         "status": "ok"} for op in ("all-gather", "all-reduce")
    ]  # fmt: skip
    found = figures.findings(studies.Study("sequence-parallel", GPU, rows))
    held = [x.held for x in found if hasattr(x, "held")]
    assert held == ([True] * 3 if factor == 1 else [False] * 3)


def test_on_paper(record):
    figure = figures.on_paper([record], [2**20, 2**24], 0.02)
    figure.plotly()
    assert figure.switches[0].options == ["1M tokens", "16M tokens"]
    rounds = next(t for t in figure.data if t["name"] == "log2(R) rounds")
    assert rounds["x"][-1] == 1024 and rounds["y"][0] == pytest.approx(1.0)
    assert "assumed to take 20 µs" in figure.provenance


def test_the_drawing_says_what_it_shows():
    assert "4 pieces" in figures.cut_sequence().alt


@pytest.mark.parametrize("draw", [figures.times, figures.speedups])
def test_a_study_without_such_rows_is_no_error(draw):
    empty = studies.Study("sequence-parallel", GPU, [{"what": "ranks", "status": "failed"}])
    assert isinstance(draw([empty]), tables.Table)
