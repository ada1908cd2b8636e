"""The study of chapter 2, on a CPU with a memory that runs out where the test says so."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from bench import contenders, eager, gate, studies, timing
from bench.roofline import FORWARD, WORKS
from bench.studies import quadratic_problem as study

EXTENT = study.Extent(
    lengths=(16, 32, 64, 128),
    longest_call_ms=1e6,
    sampling=timing.Sampling(least=2, most=2, budget_s=0.0, warm_up=1),
    step=4,
    stages=(64,),
    expandable=False,
    budget_s=1e6,
)


class Host(study.Memory):
    """Memory of a CPU: nothing is counted, and nothing is ever short."""

    device = "cpu"

    def free(self):
        return 10**9

    def clear(self, failed=False):
        pass

    def synchronize(self):
        pass

    def peak(self, call):
        call()
        return 1000, 2000

    def expandable(self, on):
        self.roomy = on
        return True


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(study, "SHORT", 64)
    # the kernels of `book` have their own tests, and take long in the interpreter
    quick = replace(contenders.get("book"), forward=eager.linear_attention)
    monkeypatch.setitem(contenders._registry, "book", quick)


def collected(extent=EXTENT, dtype="float32", ways=("naive",), monkeypatch=None, clock=None):
    monkeypatch.setattr(study, "WAYS", ways)
    rows = study.Rows(dtype, Host(), clock or timing.HostClock(), extent, lambda text: None)
    return study.collect(rows)


def lengths(rows, **wanted):
    rows = [r for r in rows if r["what"] == "length"]
    return [r for r in rows if all(r[name] == value for name, value in wanted.items())]


def smaller(monkeypatch, most):
    """The definition on a device where more than `most` tokens do not fit."""
    honest = study.naive

    def limited(q, k, v, *, causal):
        if q.shape[-2] > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate a lot.")
        return honest(q, k, v, causal=causal)

    monkeypatch.setattr(study, "naive", limited)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_way_is_verified_and_measured(dtype, monkeypatch):
    monkeypatch.setattr(study, "SHORT", 128)
    rows = collected(dtype=dtype, ways=study.WAYS, monkeypatch=monkeypatch)
    for way in study.WAYS:
        for work in WORKS:
            found = lengths(rows, way=way, work=work)
            every = 2 if way == "math" else 1
            assert [r["N"] for r in found] == [16, 32, 64, 128][::every], (way, work)
            assert {r["status"] for r in found} == {"ok"}, (way, work, found)
            assert all(r["error"] < 0.02 and r["median_ms"] > 0 for r in found)
            narrow = 8 * 64 * 64 * (4 if dtype == "float32" else 2)
            tensors = 3 if work == FORWARD else 4
            at = found[2 // every]
            assert at["N"] == 64 and at["inputs_bytes"] == tensors * narrow
            assert at["peak_bytes"] == tensors * narrow + 1000
            assert at["reserved_bytes"] == tensors * narrow + 2000
    assert not [r for r in rows if r["what"] == "limit"]
    studies.Study("quadratic-problem", provenance(), rows)  # refuses what is not finite


def provenance():
    return studies.Provenance(
        gpu="Test", slug="test", date="2026-01-01T00:00:00Z", command="", python="", torch=""
    )


@pytest.mark.parametrize("most", [32, 33, 49, 63])
def test_the_length_at_which_it_fails_is_found(most, monkeypatch):
    monkeypatch.setattr(study, "SHORT", 16)
    smaller(monkeypatch, most)
    rows = collected(monkeypatch=monkeypatch)
    for work in WORKS:
        last = lengths(rows, way="naive", work=work)[-1]
        assert (last["N"], last["status"]) == (64, "oom")
        assert "Tried to allocate" in last["reason"]
        (found,) = [r for r in rows if r["what"] == "limit" and r["work"] == work]
        assert found["allocator"] == "default"
        assert found["fits_N"] == most // 4 * 4
        assert found["fails_N"] == found["fits_N"] + 4
        assert found["free_bytes"] == 10**9 and "out of memory" in found["reason"]


def test_the_other_allocator_may_reach_further(monkeypatch):
    monkeypatch.setattr(study, "SHORT", 16)
    memory = Host()
    memory.roomy = False
    honest = study.naive

    def limited(q, k, v, *, causal):
        if q.shape[-2] > (70 if memory.roomy else 40):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return honest(q, k, v, causal=causal)

    monkeypatch.setattr(study, "naive", limited)
    monkeypatch.setattr(study, "WAYS", ("naive",))
    extent = replace(EXTENT, expandable=True)
    rows = study.collect(
        study.Rows("float32", memory, timing.HostClock(), extent, lambda text: None)
    )
    found = {(r["work"], r["allocator"]): r["fits_N"] for r in rows if r["what"] == "limit"}
    assert found == {
        (FORWARD, "default"): 40,
        ("forward+backward", "default"): 40,
        ("forward+backward", "expandable"): 68,
    }
    assert memory.roomy is False  # as it was


def test_a_wrong_result_is_not_timed(monkeypatch):
    def wrong(q, k, v, *, causal):
        s = q @ k.mT / math.sqrt(q.shape[-1])
        p = torch.softmax(s, -1)
        return p @ v if q.shape[-2] < 32 else 1.5 * (p @ v)

    monkeypatch.setattr(study, "naive", wrong)
    (row,) = lengths(collected(monkeypatch=monkeypatch), work=FORWARD)
    assert row["status"] == "wrong" and "relative error" in row["reason"]
    monkeypatch.setattr(study, "SHORT", 16)  # passes there, and fails from 32 on
    right, row = lengths(collected(monkeypatch=monkeypatch), work=FORWARD)
    assert (right["status"], row["status"]) == ("ok", "wrong")
    assert "relative error 0.5" in row["reason"]
    assert "median_ms" not in row


def test_nan_is_wrong(monkeypatch):
    honest = study.naive

    def spoiled(q, k, v, *, causal):
        o = honest(q, k, v, causal=causal)
        return torch.where(torch.arange(o.shape[-2])[:, None] == 17, float("nan"), o)

    monkeypatch.setattr(study, "SHORT", 16)
    monkeypatch.setattr(study, "naive", spoiled)
    row = lengths(collected(monkeypatch=monkeypatch), work=FORWARD)[-1]
    assert (row["N"], row["status"]) == (32, "wrong")
    assert "not finite" in row["reason"]


def test_long_calls_are_predicted_and_left_out(monkeypatch):
    class Slow(timing.HostClock):
        def sample(self, call, host_ms=0.0):
            call()
            return 10.0, 10.0

    extent = replace(EXTENT, longest_call_ms=30.0)
    rows = collected(extent, ways=("naive", "linear"), monkeypatch=monkeypatch, clock=Slow())
    naive = lengths(rows, way="naive", work=FORWARD)
    assert [(r["N"], r["status"]) for r in naive] == [(16, "ok"), (32, "too_long")]
    assert "predicted to take 0.04 s" in naive[-1]["reason"]
    assert len(lengths(rows, way="linear", work=FORWARD)) == 4


def test_a_backend_that_is_missing_gives_way_to_the_next(monkeypatch):
    honest = study._backend

    def without_flash(name):
        if name != "FLASH_ATTENTION":
            return honest("MATH")

        def context():
            raise RuntimeError("No available kernel. Aborting execution.")

        return context

    monkeypatch.setattr(study, "_backend", without_flash)
    rows = collected(ways=("tiled",), monkeypatch=monkeypatch)
    assert {r["backend"] for r in rows} == {"EFFICIENT_ATTENTION"}
    assert {r["status"] for r in rows} == {"ok"}


def test_no_time_left_ends_a_way(monkeypatch):
    extent = replace(EXTENT, budget_s=-1.0)
    rows = collected(extent, ways=("linear",), monkeypatch=monkeypatch)
    assert rows == []


def test_stages_say_what_they_move(monkeypatch):
    rows = collected(monkeypatch=monkeypatch)
    stages = {r["stage"]: r for r in rows if r["what"] == "stage"}
    narrow, square = 8 * 64 * 64 * 4, 8 * 64 * 64 * 4
    assert stages["scores"]["bytes"] == stages["output"]["bytes"] == 2 * narrow + square
    assert stages["scale"]["bytes"] == stages["softmax"]["bytes"] == 2 * square
    assert stages["scores"]["flops"] + stages["output"]["flops"] == 4 * 8 * 64 * 64 * 64
    assert all(r["N"] == 64 and r["median_ms"] > 0 for r in stages.values())


def test_the_check_of_rows_uses_the_same_rule_as_the_gate():
    want = torch.randn(16, 8, dtype=torch.float64)
    assert study.relative_error(want, want) == 0
    assert not study.relative_error(want * float("nan"), want) <= 1
    assert gate.BLOCK_ROWS == study.CHECKED_ROWS
