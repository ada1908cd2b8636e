"""The benchmark clinic without a GPU: the wrong ways are wrong as the page says."""

import math

import pytest
import torch

from bench import clinic_figures, hardware, studies, tables, timing
from bench.studies import clinic


@pytest.fixture
def on_cpu(monkeypatch):
    """Small tensors on the CPU; a host's clock in place of the device's."""

    def right_ms(*calls, quick=False):
        lanes = [timing.Lane(call) for call in calls]
        timing.race(lanes, timing.HostClock(), timing.Sampling(1, 1, 0.0, 0))
        for lane in lanes:
            if lane.failure is not None:
                raise lane.failure
        return [lane.percentile(50) for lane in lanes]

    monkeypatch.setattr(clinic, "DEVICE", "cpu")
    monkeypatch.setattr(clinic, "right_ms", right_ms)
    monkeypatch.setattr(clinic, "LARGE", 2**13)
    monkeypatch.setattr(clinic, "SIDE", 64)
    monkeypatch.setattr(clinic, "SMALL_SHAPE", (1, 1, 32, 16))
    monkeypatch.setattr(clinic.hardware, "default_dtype", lambda: torch.float16)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(clinic.time, "sleep", lambda s: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: None)
    for name in ("time_with_events", "time_with_tuning", "time_a_few", "time_asynchronous"):
        monkeypatch.setattr(clinic, name, lambda call: call() is not None and 0.5)
    monkeypatch.setattr(clinic.tuned, "add", lambda x, y: x + y)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))


def test_every_case_gives_a_row(on_cpu):
    rows = clinic.measure(True, lambda text: None)
    assert [r["case"] for r in rows[:-1]] == [c.__name__ for c in clinic.CASES]
    assert [rows[0][n] for n in "BHND"] == [1, 1, 32, 16]
    assert all(r["status"] == "ok" and math.isfinite(r["factor"]) for r in rows), rows
    studies.Study("clinic", hardware.Provenance("", "", "", "", "", ""), rows)


def test_a_case_that_fails_leaves_the_others(on_cpu, monkeypatch):
    def fail(*args):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(clinic.torch, "matmul", fail)
    rows = {r["case"]: r for r in clinic.measure(True, lambda text: None)}
    assert rows["drift"]["status"] == "failed" and "out of memory" in rows["drift"]["reason"]
    assert rows["unverified"]["status"] == "ok"


def test_a_kernel_of_known_bytes_is_held_against_the_floor(on_cpu, monkeypatch):
    """2 bytes of each number are read and 2 written; a copy that leaves some out has no time."""
    monkeypatch.setattr(clinic, "right_ms", lambda *calls, quick: [2.0, 1.0][: len(calls)])
    row = clinic.known_bytes(True)
    assert row == {"right_ms": 2.0, "floor_ms": 1.0, "bytes": 4 * 2**13, "factor": 0.5}
    monkeypatch.setattr(clinic, "copy", lambda x, out: out[:-1].copy_(x[:-1]))
    last = clinic.measure(True, lambda text: None)[-1]
    assert last["status"] == "failed" and "the copy is wrong" in last["reason"]


@pytest.mark.parametrize("room, small", [(2**30, True), (16 * 2**30, False)])
def test_the_quick_form_is_large_where_there_is_room(on_cpu, monkeypatch, room, small):
    """A small call is over before the host has issued the next one, and the fault does not show."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (room, room))
    assert (clinic.shape_for(True) == clinic.SMALL_SHAPE) is small
    assert clinic.shape_for(False) == clinic.SHAPE


@pytest.mark.parametrize("capability, side, rest", [((9, 0), 64, 4), ((7, 5), 16, 1)])
def test_the_drift_is_measured_in_full_on_a_newer_gpu(on_cpu, monkeypatch, capability, side, rest):
    seen = []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(clinic.time, "sleep", seen.append)
    monkeypatch.setattr(clinic.torch, "matmul", lambda a, b: seen.append(len(a)) or a)
    clinic.drift(True)
    assert rest in seen and {x for x in seen if x != rest} == {side}


def test_the_check_that_lets_nan_pass():
    want = torch.arange(8.0)
    got = want.clone()
    got[5] = float("nan")
    assert clinic.looks_right(got, want)  # the fault that the page shows
    got[5] = 9.0
    assert not clinic.looks_right(got, want)


def test_an_expanded_tensor_is_counted_as_if_it_were_stored():
    x = torch.zeros(64, 1024, dtype=torch.float16)
    y = torch.zeros(1, 1024, dtype=torch.float16).expand(64, 1024)
    moved = 2 * x.nbytes
    assert clinic.bandwidth_of_an_add(x, y, 1.0) * 1e9 == 1.5 * moved


def test_the_figures(on_cpu):
    gpu = hardware.Provenance("NVIDIA Test", "test", "2026-01-31T00:00:00Z", "", "3.12", "2.11")
    rows = clinic.measure(True, lambda text: None)
    study = studies.Study("clinic", gpu, rows)
    figure = clinic_figures.factors([study, study])
    figure.plotly()
    assert len(clinic.CASES) == len(clinic_figures.NAMES)
    assert figure.data[0]["y"][1::3] == [r["factor"] for r in rows[:-1]]
    assert len(figure.switches[0].options) == 2
    empty = studies.Study("clinic", gpu, [{"case": "drift", "status": "failed"}])
    assert isinstance(clinic_figures.factors([empty]), tables.Table)


def test_a_clock_of_the_timeline_encloses_what_it_says():
    figure = clinic_figures.timeline(calls=3)
    figure.plotly()
    assert len(figure.alts) == len(figure.switches[0].options) == 4
    clocks = [t for t in figure.data if t["name"] == "what the clock reads"]
    runs = [t for t in figure.data if t["name"] == "a call runs"]
    for panel, encloses in ((0, False), (1, True), (3, True)):
        start, stop = clocks[panel]["x"]
        first = min(runs[panel]["base"])
        last = max(b + x for b, x in zip(runs[panel]["base"], runs[panel]["x"], strict=True))
        assert (start <= first and stop >= last) is encloses
    assert clocks[3]["x"] == [runs[3]["base"][0], runs[3]["base"][0] + runs[3]["x"][0]]
