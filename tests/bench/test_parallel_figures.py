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
    more = 0.02 / (2**20 / 133120 - 1)  # of a state that comes on top
    assert model.time_ms(2**20, 2, "at once") == model.time_ms(2**20, 2, "rounds")
    assert model.time_ms(2**20, 8, "at once") == pytest.approx(0.01 + 0.125 + 0.02 + 6 * more)
    assert {model.time_ms(2**20, 1, way) for way in scaling.WAYS} == {model.piece_ms(2**20)}
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
    assert isinstance(figures.projected([some], [2**20]), tables.Table)


def test_the_times_of_one_gpu_and_an_assumption_are_a_model(record):
    model = scaling.on_paper(record, True, "forward", 0.02)
    assert model.fixed_ms == pytest.approx(0.01) and model.token_ms == pytest.approx(2**-20)
    assert model.exchange_ms == 0.02 and not model.doubled


def test_what_was_measured_on_one_gpu_is_not_taken_for_more(study, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert not figures.measured(tmp_path).select(what="call")
    alone = [r for r in study.rows if r.get("ranks") == 1]
    studies.write(replace(study, rows=alone), tmp_path)
    assert not figures.measured(tmp_path).select(what="call")
    studies.write(study, tmp_path)
    assert len(figures.measured(tmp_path).rows) == len(study.rows)


def test_several_gpus_are_measured_and_else_the_record_is_shown(study, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    studies.write(study, tmp_path)
    live = replace(study, live=True)
    monkeypatch.setattr(studies, "study", lambda *a: live)
    assert figures.measured(tmp_path).live
    monkeypatch.setattr(studies, "study", lambda *a: replace(live, rows=study.rows[:2]))
    assert not figures.measured(tmp_path).live


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
    assert [t["name"] for t in figure.data[:4]] == [
        "1 GPU", "1 GPU, in a row", "2 GPUs", "2 GPUs, in a row"
    ]  # fmt: skip
    assert figure.data[1]["y"][-1] == pytest.approx(2 * 1.01)
    two = figures.strong(study)
    assert two[True, "forward", 2**20, "both"] == pytest.approx(1.01 / 0.53)
    grown = figures.weak(study)
    assert grown[True, "forward", 2**18, "both"] == pytest.approx((0.01 + 0.25 + 0.02) / 0.26)
    for draw, y in ((figures.speedups, 1.01 / 0.53), (figures.grown, 0.53 / 0.51)):
        figure = draw([study])
        figure.plotly()
        assert figure.data[0]["name"] == "without overlap"
        assert figure.data[0]["y"][-1] == pytest.approx(y)
    assert "with overlap 1.91 at 1M" in figures.speedups([study]).alt


def test_an_exchange_by_what_is_sent(study):
    figure = figures.exchanges([study])
    figure.plotly()
    assert [list(t["y"]) for t in figure.data] == [[20.0, 40.0]] * 4
    assert "from 0.13 MB to 1 MB of each rank: all-gather 20 to 40 µs" in figure.alt


def test_tables_show_both_clocks_and_all_gpus(study):
    found = figures.at_length(study, 2**20)
    named = [row[1] for row in found.rows[:3]]
    assert named == ["1 GPU", "2, without overlap", "2, with overlap"]
    assert found.rows[2][2:6] == ["0.53", "1.91", "1.06", "1.91"]
    other = replace(study, provenance=replace(GPU, gpu="NVIDIA Other"), rows=study.rows[:2])
    table = figures.host([study, other], 2**18)
    assert table.columns == ["", "Test", "Other"]
    assert table.rows[0][1:] == ["260", "260"] and table.rows[-1][1:] == ["20", "–"]
    assert len(figures.constants([study, other]).rows) == 4
    table = figures.verdicts([study, other])
    assert table.rows[0][1:] == ["Did not hold: 20 µs", "Not decided: not measured"]


def decided(rows) -> dict:
    """The first words of each claim -> whether it held."""
    return {
        c.sentence: c.held for c in figures.claims(studies.Study("sequence-parallel", GPU, rows))
    }


def rows_of(factor=1.0, host=1.0, lengths=(2**16, 2**20, 2**21, 2**22, 2**24)):
    """Two GPUs that take `factor` times their half; with overlap one and a half times that."""
    rows = [
        {"what": "exchange", "op": op, "ranks": 2, "bytes": 8, "device_us": 1.0, "host_us": 1.0,
         "status": "ok"} for op in ("all-gather", "all-reduce")
    ]  # fmt: skip
    ways = {"no-overlap": 1.0, "both": 1.5, "no-check": 1.5}
    for order, N in ((o, n) for o in figures.ORDERS for n in lengths):
        ms = 0.01 + N / 2**20
        rows += [call(1, N, *order, "one-gpu", ms), call(1, N, *order, "both", 0.9 * ms)]
        for way, more in ways.items():
            row = call(2, N, *order, way, (0.009 + 0.9 * N / 2**21) * factor * more)
            hosts = host / 2 if way == "no-check" else host
            rows.append(row | {"eager_ms": max(hosts, row["eager_ms"])})
    return rows


def test_each_claim_is_decided_by_the_times():
    good = decided(rows_of())
    assert list(good.values()) == [
        True,  # an exchange is short
        True, False,  # strong scaling without overlap, and with it
        False,  # overlap wins
        True,  # what is kept
        True, False,  # weak scaling
        True,  # the model
        True, True,  # the hosts
        False,  # 16M tokens fit on one GPU
    ]  # fmt: skip
    slow = list(decided(rows_of(factor=1.3)).values())
    assert slow == [True, False, False, False, True, False, False, False, True, True, False]
    eager = list(decided(rows_of(host=0.0)).values())
    assert eager[8:10] == [False, False]
    late = list(decided(rows_of(host=5.0)).values())
    assert late[1:5] == [False, False, False, True]  # strong scaling is judged in a row as well
    gone = [
        r | {"status": "oom"} if (r.get("ranks"), r.get("N")) == (1, 2**24) else r
        for r in rows_of()
    ]
    assert list(decided(gone).values())[-1] is True
    some = [r for r in rows_of() if r.get("way") != "no-overlap"]
    assert list(decided(some).values())[1:6] == [None, False, None, None, None]


def test_what_is_not_measured_is_not_decided(study):
    assert set(decided([{"what": "ranks", "status": "failed"}]).values()) == {None}
    found = [c.held for c in figures.claims(study)]
    assert found == [False, None, None, False, None, None, None, True, None, None, None]


def test_only_what_a_page_explains_may_fail():
    """Claims that fail on a record and that no page expects to fail are warnings."""
    for recorded in studies.recorded("sequence-parallel"):
        assert not [c.sentence for c in figures.claims(recorded) if c.surprising]


def test_more_gpus_than_there_are(study):
    figure = figures.projected([study], [2**20, 2**24])
    figure.plotly()
    assert figure.switches[0].options == ["1M tokens", "16M tokens"]
    rounds = next(t for t in figure.data if t["name"] == "log2(R) rounds")
    assert rounds["x"][-1] == 1024 and rounds["y"][0] == pytest.approx(1.0)
    assert {"one exchange, R states arrive", "R − 1 exchanges in a row"} < {
        t["name"] for t in figure.data
    }
    assert figure.provenance.startswith("Computed for more than two GPUs, with constants")


def test_the_drawing_says_what_it_shows():
    assert "4 pieces" in figures.cut_sequence().alt


@pytest.mark.parametrize(
    "draw", [figures.times, figures.speedups, figures.grown, figures.exchanges]
)
def test_a_study_without_such_rows_is_no_error(draw):
    empty = studies.Study("sequence-parallel", GPU, [{"what": "ranks", "status": "failed"}])
    assert isinstance(draw([empty]), tables.Table)
