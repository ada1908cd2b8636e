"""Memory: the model, the search for the longest sequence, and a survey without a GPU."""

import pytest
import torch

from bench import contenders, eager, fresh, memory, reports, studies, truth
from bench.contenders import Contender
from bench.hardware import Provenance
from bench.memory import STEP, Model
from bench.roofline import FORWARD, FORWARD_BACKWARD
from bench.studies import memory as study

GPU = Provenance("Made-up GPU 1", "made-up-gpu-1", "2026-01-02T03:04:05Z", "x", "3.12", "2.11")


@pytest.mark.parametrize("model", [Model(1e6, 4096.0, 0.0), Model(1e6, 4096.0, 128.0)])
def test_a_model_is_found_again_and_turned_around(model):
    found = memory.fit([(n, model.bytes(n)) for n in (512, 1024, 4096, 8192)])
    assert found.per_token == pytest.approx(model.per_token, rel=1e-3)
    assert found.per_pair == pytest.approx(model.per_pair, rel=1e-3)
    n = found.longest(1e9)
    assert n % STEP == 0
    assert found.bytes(n) <= 1e9 < found.bytes(n + STEP)
    assert found.longest(10.0) == 0


@pytest.mark.parametrize("short", [3.0, 4.5, 9.0])
def test_another_algorithm_for_short_sequences_is_no_square(short):
    """From N = 16K on three bytes for each of a million; at 4K more, or less."""
    points = [(4096, short * 4096e3), (16384, 3.0 * 16384e3), (65536, 3.01 * 65536e3)]
    model = memory.fit(points)
    assert model.per_pair == 0
    assert model.bytes(2**21) == pytest.approx(3.01e3 * 2**21, rel=0.01)


def test_two_points_make_a_line_and_one_makes_nothing():
    assert memory.fit([(1024, 3e6), (2048, 5e6)]).per_pair == 0
    with pytest.raises(ValueError, match="two lengths"):
        memory.fit([(1024, 3e6)])


@pytest.mark.parametrize("guess", [64, 1024, 100_000, 131_072, 140_000, 500_000])
def test_the_longest_is_found_from_any_guess(guess):
    tried = []

    def fits(n):
        tried.append(n)
        return n <= 131_072

    low, high = memory.largest(fits, guess)
    assert low <= 131_072 < high
    assert high - low <= max(STEP, 0.02 * guess)
    assert len(tried) < 30
    assert all(n % STEP == 0 for n in tried)


def test_nothing_fits():
    assert memory.largest(lambda n: False, 4096) == (0, STEP)


@pytest.fixture
def enter():
    def add(name, forward=eager.linear_attention, function=truth.LINEAR, **facts):
        contenders.register(Contender(name, name, function, forward, note="", **facts))
        return name

    return add


SMALL = {"B": 1, "H": 2, "D": 16, "dtype": "float32", "device": "cpu", "lengths": (64, 128)}


def test_a_survey_keeps_failures_apart(enter, monkeypatch):
    def fails(q, k, v, *, causal):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    cases = [(False, FORWARD), (True, FORWARD_BACKWARD)]
    rows = list(memory.survey(enter("fails", fails), cases, **SMALL))
    peaks = [r for r in rows if r["kind"] == "peak"]
    assert len(peaks) == 4
    assert all(r["status"] == "failed" and r["out_of_memory"] for r in peaks)
    sizes = [r for r in rows if r["kind"] == "fits"]
    assert len(sizes) == 8
    assert "no model" in sizes[0]["reason"]
    rows = list(memory.survey("flash-attn-3", cases, **SMALL))
    assert [r["status"] for r in rows] == ["not_installed"] * 2


def test_a_survey_predicts_and_runs_into_the_limit(enter, monkeypatch):
    """A made-up allocator: a call needs 2 KiB for each token, and 16 MiB for itself."""
    limit = {"bytes": 80 * 2**30}

    def call_once(contender, shape, work, device):
        peak = 2**24 + 2048 * shape.N
        if peak > limit["bytes"]:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return {"peak_allocated_bytes": peak, "seconds": 1e-6, "extra_bytes": 0, "outputs_bytes": 1}

    def limit_memory(share, device):
        limit["bytes"] = share * 80 * 2**30

    monkeypatch.setattr(memory, "call_once", call_once)
    monkeypatch.setattr(memory, "run_once", call_once)
    monkeypatch.setattr(memory, "limit_memory", limit_memory)
    rows = list(memory.survey(enter("x"), [(False, FORWARD)], **SMALL))
    for row in rows[2:]:
        exact = (row["limit_gib"] * 2**30 - 2**24) // 2048
        assert row["status"] == "ok"
        assert row["fits_n"] <= exact < row["fails_n"]
        assert row["predicted_n"] == pytest.approx(exact, rel=1e-3)
        assert abs(row["prediction_error"]) < 0.03
    assert limit["bytes"] == 80 * 2**30, "the limit is lifted again"


def test_too_slow_to_run_is_predicted_only(enter, monkeypatch):
    def call_once(contender, shape, work, device):
        return {"peak_allocated_bytes": 2048 * shape.N, "seconds": 1.0}

    monkeypatch.setattr(memory, "call_once", call_once)
    slow = enter("slow", function=truth.SOFTMAX)
    *_, row = memory.survey(slow, [(False, FORWARD)], sizes_gib=(16,), **SMALL)
    assert row["status"] == "predicted"
    assert row["predicted_n"] > 0 and "fits_n" not in row


def test_one_real_survey_of_the_book_on_the_cpu():
    rows = list(memory.survey("book", [(False, FORWARD)], sizes_gib=(), **SMALL))
    assert [r["status"] for r in rows] == ["ok", "ok"], rows
    assert rows[1]["outputs_bytes"] == 2 * 128 * 16 * 4


def test_inputs_come_in_the_layout(enter):
    seen = []

    def forward(q, k, v, *, causal):
        seen.append(tuple(q.shape))
        return v

    c = contenders.get(enter("turned", forward, layout="BNHD"))
    memory.call_once(c, memory.Shape(1, 3, 64, 8, 8, "float32"), FORWARD, "cpu")
    assert seen == [(1, 64, 3, 8)] * 2


def test_the_study_goes_on_where_a_process_dies(monkeypatch):
    asked = []

    def stream(module, function, options, timeout_s, tell):
        asked.append(list(options["items"]))
        found = []
        for name in options["items"]:
            found.append({"kind": "peak", "contender": name, "status": "ok"})
            if name == "sdpa-math":
                return found, "its process ended (SIGSEGV): x"
            found.append({"done": name})
        return found, None

    monkeypatch.setattr(fresh, "stream", stream)
    said = []
    rows = study.measure(False, said.append)
    assert any(line.strip().startswith("sdpa-math: its process") for line in said)
    assert asked == [list(study.CONTENDERS), list(study.CONTENDERS[6:])]
    failed = [(r["contender"], r["reason"]) for r in rows if r["status"] == "failed"]
    assert failed == [("sdpa-math", "its process ended (SIGSEGV): x")]
    assert {r["contender"] for r in rows if r["status"] == "ok"} == set(study.CONTENDERS)


def test_the_study_ends_in_time(monkeypatch):
    monkeypatch.setattr(study, "LIMIT_S", -1.0)
    rows = study.measure(False, lambda text: None)
    assert len(rows) == len(study.CONTENDERS)
    assert all("not measured within" in r["reason"] for r in rows)


def test_contenders_without_an_order_are_left_out_of_it():
    assert list(memory.survey("flash-bla", [(True, FORWARD)], **SMALL)) == []


def test_tables():
    case = {"contender": "book", "label": "This book", "causal": False, "work": FORWARD}
    rows = [
        {"kind": "peak", **case, "N": n, "status": "ok", "extra_bytes": 2**20 * i, "reason": None}
        | {"outputs_bytes": 2**30, "peak_allocated_bytes": 3 * 2**20 * i}
        | {"peak_reserved_bytes": 20 * 2**20}
        for i, n in enumerate((1024, 4096), 1)
    ]
    other = case | {"contender": "absent", "label": "Absent"}
    rows.append({"kind": "peak", **other, "status": "not_installed", "reason": "no package"})
    fits = {"limit_gib": 16, "status": "ok", "fits_n": 1000, "predicted_n": 1024, "reason": None}
    rows.append({"kind": "fits", **case, **fits})
    predicted = {"limit_gib": 24, "status": "predicted", "predicted_n": 2048, "reason": "slow"}
    rows.append({"kind": "fits", **case, **predicted})
    cut = {"contender": "cut", "label": "cut", "limit_gib": 16}
    rows.append({"kind": "fits", **case, **predicted, **cut})
    rows.append({"kind": "peak", "contender": "late", "status": "failed", "reason": "out of time"})
    peaks, longest, held, missed = reports.memory(studies.Study("memory", GPU, rows))
    assert held.rows[0] == ["This book", "3 / 20", "6 / 20"]
    assert missed == "late: out of time"
    assert peaks.rows == [
        ["This book", "1 (0.0977 %)", "2 (0.195 %)"],
        ["Absent", "not installed", "not installed"],
    ]
    assert longest.rows == [["This book", "1,000 (1,024)", "(2,048)"], ["cut", "(2,048)", "–"]]
    assert longest.notes[1, 2] == "not measured in time"


def test_a_function_in_a_fresh_process():
    found = fresh.call("bench.memory", "one_call", {"contender": "flash-attn-3", "work": FORWARD})
    assert "no package" in found["failed"]


def test_a_fresh_process_that_dies_or_hangs():
    assert "SIGABRT" in fresh.call("os", "abort", {})["failed"]
    hangs = fresh.call("threading", "Event", {}, timeout_s=0.01)
    assert hangs == {"failed": "it did not return within 0 s"}


def test_what_a_process_yields_is_told_as_it_comes():
    told, options = [], {"object": {"x": 1}, "times": 3}
    found, failure = fresh.stream("itertools", "repeat", options, tell=told.append)
    assert found == told == [{"x": 1}] * 3 and failure is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: its allocator")
def test_peaks_on_a_gpu():
    sizes = {"lengths": (4096, 8192), "sizes_gib": (1,)}
    rows = list(memory.survey("book", [(False, FORWARD)], **sizes))
    assert rows[0]["outputs_bytes"] == 8 * 8 * 4096 * 64 * 2
    assert rows[0]["extra_bytes"] < rows[0]["outputs_bytes"]
    assert rows[-1]["status"] == "ok", rows[-1]
    assert abs(rows[-1]["prediction_error"]) < 0.1
