"""Memory: the model, the search for the longest sequence, and a survey without a GPU."""

import pytest
import torch

from bench import contenders, eager, fresh, memory, reports, studies, truth
from bench.contenders import Contender
from bench.hardware import Provenance
from bench.memory import STEP, Model
from bench.roofline import FORWARD, FORWARD_BACKWARD
from bench.studies import memory as study
from bench.timing import DeviceLost

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
    monkeypatch.setattr(memory, "run_once", lambda *x: pytest.fail("it was run"))
    slow = enter("slow", function=truth.SOFTMAX)
    *_, row = memory.survey(slow, [(False, FORWARD)], sizes_gib=(16,), **SMALL)
    assert row["status"] == "predicted"
    assert row["predicted_n"] > 0 and "fits_n" not in row and "batch_fits" not in row


def tokens(limit, seconds, extra=0):
    """`call_once` of an operator that needs 2 KiB for each token of a sequence, and `extra`."""

    def call_once(contender, shape, work, device):
        peak = (2048 + extra * (shape.N <= memory.SHORT)) * shape.B * shape.N
        if peak > limit["bytes"]:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        limit["called"].append((shape.B, shape.N))
        return {"peak_allocated_bytes": peak, "seconds": seconds * shape.B * shape.N**2}

    return call_once


@pytest.mark.parametrize("extra", [0, 512])
def test_what_takes_too_long_is_run_as_many_short_sequences(enter, monkeypatch, extra):
    limit = {"bytes": 80 * 2**30, "called": []}
    call = tokens(limit, 4e-12, extra)
    monkeypatch.setattr(memory, "call_once", call)
    monkeypatch.setattr(memory, "run_once", call)
    monkeypatch.setattr(
        memory, "limit_memory", lambda share, device: limit.update(bytes=share * 80 * 2**30)
    )
    lengths = {"lengths": (16384, 32768, 65536)}
    slow = enter("slow", function=truth.SOFTMAX)
    *_, small, large = memory.survey(slow, [(False, FORWARD)], sizes_gib=(2, 80), **SMALL | lengths)
    assert small["status"] == "ok", "the smallest size has the longer patience"
    assert large["status"] == "predicted" and "as many tokens were run" in large["reason"]
    assert large["batch_predicted"] == 80 * 2**30 // 2048 // memory.SHORT
    exact = 80 * 2**30 // (2048 + extra) // memory.SHORT
    assert large["batch_fits"] <= exact < large["batch_fails"]
    assert large["batch_error"] == pytest.approx(extra / 2048, abs=0.04), "a miss is seen"
    assert {n for b, n in limit["called"][3:] if b > 1} == {memory.SHORT}
    monkeypatch.setattr(memory, "FIRST_PATIENCE_S", memory.PATIENCE_S)
    *_, small, _ = memory.survey(slow, [(False, FORWARD)], sizes_gib=(2, 80), **SMALL | lengths)
    assert small["status"] == "predicted" and small["batch_fits"]


def test_a_short_sequence_that_fails_leaves_the_prediction(enter, monkeypatch):
    call = tokens({"bytes": 80 * 2**30, "called": []}, 4e-12)

    def fails(*x):
        raise ValueError("too many sequences")

    monkeypatch.setattr(memory, "call_once", call)
    monkeypatch.setattr(memory, "run_once", fails)
    slow, lengths = enter("slow", function=truth.SOFTMAX), {"lengths": (16384, 65536)}
    *_, row = memory.survey(slow, [(False, FORWARD)], sizes_gib=(80,), **SMALL | lengths)
    assert row["status"] == "predicted" and "too many sequences" in row["reason"]
    assert "batch_fits" not in row


@pytest.mark.parametrize(
    ("name", "facts", "ran"), [("compiled", {}, []), ("tunes", {"tunes": 4096}, [16])]
)
def test_those_that_compile_or_tune_are_predicted_from_two_lengths(
    enter, monkeypatch, name, facts, ran
):
    call = tokens({"bytes": 80 * 2**30, "called": []}, 1e-18)
    monkeypatch.setattr(memory, "call_once", call)
    monkeypatch.setattr(memory, "run_once", call)
    monkeypatch.setattr(memory, "COMPILES", ("compiled",))
    c = Contender(name, name, truth.LINEAR, eager.linear_attention, note="", **facts)
    monkeypatch.setitem(contenders._registry, name, c)
    rows = list(memory.survey(name, [(False, FORWARD)], **SMALL | {"lengths": memory.LENGTHS}))
    assert [r["N"] for r in rows if r["kind"] == "peak"] == list(memory.FEW)
    fits = [r for r in rows if r["kind"] == "fits"]
    assert [r["limit_gib"] for r in fits] == list(memory.SIZES_GIB)
    assert all(r["predicted_n"] for r in fits)
    assert [r["limit_gib"] for r in fits if "fits_n" in r] == ran
    assert all("not run: it " in r["reason"] for r in fits if "fits_n" not in r)


def test_no_contender_is_passed_over_in_silence():
    from bench import steps

    steps.register()
    field = {n for n in contenders.names() if not n.startswith(steps.PREFIX)}
    assert field <= {*study.CONTENDERS, *study.LEFT_OUT}
    assert not set(study.CONTENDERS) & set(study.LEFT_OUT)
    assert all(why.startswith("left out: ") for why in study.LEFT_OUT.values())


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
        for item in options["items"]:
            found.append({"kind": "peak", "contender": item[0], "status": "ok"})
            if item == ["sdpa-math", False, FORWARD_BACKWARD]:
                return found, "its process ended (SIGSEGV): x"
            found.append({"done": item[0]})
        return found, None

    monkeypatch.setattr(fresh, "stream", stream)
    said = []
    monkeypatch.setattr(contenders, "find_spec", lambda name: None)
    rows = study.measure(False, said.append)
    assert any("sdpa-math" in line and "its process ended" in line for line in said)
    here = [n for n in study.CONTENDERS if not n.startswith(("fla-", "flash-attn"))]
    cases = [[n, *case] for n in here for case in study.CASES]
    left = cases.index(["sdpa-math", False, FORWARD_BACKWARD]) + 1
    assert asked == [cases, cases[left:]] and cases[left] == ["sdpa-math", True, FORWARD]
    failed = {r["contender"]: r["reason"] for r in rows if r["status"] == "failed"}
    ended = "bidirectional, forward + backward: its process ended (SIGSEGV): x"
    assert failed == {"sdpa-math": ended, **study.LEFT_OUT}
    assert {r["contender"] for r in rows if r["status"] == "ok"} == set(here)
    gone = {r["contender"] for r in rows if r["status"] == "not_installed"}
    assert gone == set(study.CONTENDERS) - set(here)
    said = reports.memory(studies.Study("memory", GPU, [r for r in rows if r["status"] != "ok"]))
    names = {text.split(":")[0].split(", ")[1] for text in said if isinstance(text, str)}
    assert set(failed) | gone <= names


def test_the_study_ends_in_time(monkeypatch):
    monkeypatch.setattr(study, "LIMIT_S", -1.0)
    rows = study.measure(False, lambda text: None)
    here = [n for n in study.CONTENDERS if contenders.get(n).available() is None]
    gone = len(study.CONTENDERS) - len(here)
    assert len(rows) == len(study.CASES) * len(here) + gone + len(study.LEFT_OUT)
    late = [r["contender"] for r in rows if "not measured within" in r["reason"]]
    assert late == [n for n in here for _ in study.CASES]


def test_a_size_at_which_the_gpu_is_lost_has_a_row_and_its_process_ends(enter, monkeypatch):
    """What was measured before stays, and the next case begins in another process."""

    def lost(contender, shape, work, device, peaks=True):
        if not peaks:
            raise DeviceLost("AcceleratorError: an illegal memory access was encountered")
        peak = 2**20 * shape.N
        return {"status": "ok", "reason": None, "peak_allocated_bytes": peak, "seconds": 1e-6}

    monkeypatch.setattr(memory, "_try", lost)
    rows = []
    with pytest.raises(DeviceLost):
        for row in memory.survey(enter("loses"), [(False, FORWARD)], sizes_gib=(16, 80), **SMALL):
            rows.append(row)
    assert [r["status"] for r in rows] == ["ok", "ok", "failed"]
    assert rows[-1]["limit_gib"] == 16 and "illegal memory access" in rows[-1]["reason"]


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
    cut = {"contender": "cut", "label": "cut", "limit_gib": 16, "batch_n": 64, "batch_fits": 250}
    rows.append({"kind": "fits", **case, **predicted, **cut})
    rows.append({"kind": "peak", "contender": "late", "status": "failed", "reason": "out of time"})
    peaks, longest, held, missed = reports.memory(studies.Study("memory", GPU, rows))
    assert held.rows[0] == ["This book", "3 / 20", "6 / 20"]
    assert missed == f"{GPU.gpu}, late: out of time"
    assert peaks.rows == [
        ["This book", "1 (0.0977 %)", "2 (0.195 %)"],
        ["Absent", "not installed", "not installed"],
    ]
    assert longest.rows == [
        ["This book", "1,000 (1,024)", "(2,048)"],
        ["cut", "250 × 64 (2,048)", "–"],
    ]
    assert "b sequences of N tokens" in longest.caption
    assert longest.notes[1, 2] == "not measured in time"
    ended = {"kind": "peak", "contender": "cut", "status": "failed", "reason": "it lost the GPU"}
    longest = reports.memory(studies.Study("memory", GPU, [*rows, ended]))[1]
    assert longest.notes[1, 2] == "it lost the GPU"


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
