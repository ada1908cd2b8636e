"""The study of decoding, run small and without a GPU; its rows keep their form."""

import math
import time

import pytest
import torch

from bench import hardware, studies, timing
from bench.studies import decoding as study

SAMPLING = timing.Sampling(least=1, most=1, budget_s=0.0, warm_up=0)


@pytest.fixture
def watch(monkeypatch):
    monkeypatch.setattr(study, "STATE_BATCHES", (1, 3))
    monkeypatch.setattr(study, "BATCHES", (1, 2))
    monkeypatch.setattr(study, "LENGTHS", (32, 64))
    monkeypatch.setattr(study, "PROMPTS", (32, 64))
    monkeypatch.setattr(study, "LONG_PROMPTS", (128,))
    monkeypatch.setattr(study, "CHECKPOINTS", (16, 64))
    monkeypatch.setattr(study, "BACKENDS", {"cache-math": "MATH"})
    monkeypatch.setattr(study, "D", 16)
    monkeypatch.setattr(study, "STATE_BYTES", 4 * (16 * 16 + 16))
    clocks = timing.HostClock(), timing.HostClock()
    return study.Watch(
        torch.float32, SAMPLING, time.monotonic() + 600, False, device="cpu", clocks=clocks
    )


@pytest.mark.parametrize(
    "part", [study.states, study.caches, study.prompts], ids=lambda p: p.__name__
)
def test_rows_are_gated_and_timed(part, watch):
    rows = list(part(watch))
    assert rows
    assert {r["status"] for r in rows} == {"ok"}, rows
    for row in rows:
        assert row["device_ms"] > 0 and row["copy_ms"] > 0 and row["error"] < 1e-5
        assert row["held_bytes"] > 0
    studies.Study("decoding", hardware.Provenance("", "", "", "", "", ""), rows)


def test_a_cache_grows_with_the_length_and_a_state_does_not(watch):
    caches = [r for r in study.caches(watch) if r["B"] == 1 and r["way"] == "cache-math"]
    assert [r["held_bytes"] for r in caches] == [2 * 8 * N * 16 * 4 for N in (32, 64)]
    states = [r for r in study.states(watch) if r["way"] == "state"]
    assert [r["held_bytes"] for r in states] == [8 * B * 4 * (16 * 16 + 16) for B in (1, 3)]


def test_what_the_allocator_holds_is_counted_without_what_is_gone(watch, monkeypatch):
    """An allocator that counts the storages of living tensors, as that of a GPU does."""
    import gc

    def stored(x):
        try:
            return x.data_ptr() and x.untyped_storage()
        except RuntimeError:
            return None  # a tensor of another test that has no memory

    def allocated():
        gc.collect()
        alive = [x for x in gc.get_objects() if type(x) is torch.Tensor and x.device.type == "cpu"]
        found = [storage for x in alive if (storage := stored(x))]
        return sum({x.data_ptr(): x.nbytes() for x in found}.values())

    monkeypatch.setattr(watch, "allocated", allocated)
    monkeypatch.setattr(watch, "more_than", lambda was: {"allocated_bytes": allocated() - was})
    for part in (study.states, study.caches, study.prompts):
        for row in part(watch):
            assert row["status"] == "ok" and row["allocated_bytes"] == row["held_bytes"], row


def test_long_prompts_are_read_with_a_state_alone(watch):
    ways = {(r["way"], r["N"]) for r in study.prompts(watch)}
    assert ("state", 128) in ways and ("cache", 128) not in ways and ("cache", 64) in ways


def test_a_step_whose_arguments_are_checked_has_a_time_of_its_own(watch, monkeypatch):
    rows = {r["way"]: r for r in study.states(watch) if r["B"] == 1}
    assert rows["state"]["checked_host_ms"] > 0 and "checked_host_ms" not in rows["state-eager"]
    seen = []
    monkeypatch.setattr(study.ops, "_step", lambda *all: seen.append(all[5:]))
    list(study.states(watch))
    assert set(seen) == {("elu", True, None, 1e-6, False)}


@pytest.mark.parametrize("part", [study.states, study.prompts], ids=lambda p: p.__name__)
def test_a_wrong_result_is_not_timed(part, watch, monkeypatch):
    """A step, and a prompt, that return NaN, and one that forgets what came before."""
    real = study.linear_attention_step

    def forgets(q, k, v, state):
        return real(q, k, v, study.LinearAttentionState(*(0 * x for x in state)))

    def broken(q, k, v, **options):
        return q * math.nan, None

    monkeypatch.setattr(study, "linear_attention_step", forgets)
    monkeypatch.setattr(study, "linear_attention", broken)
    ours = [r for r in part(watch) if r["way"] == "state"]
    assert all(r["status"] == "wrong" and "device_ms" not in r for r in ours)


def test_a_way_that_fails_is_a_row(watch, monkeypatch):
    def fail(*args):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(study, "eager_step", fail)
    rows = list(study.states(watch))
    assert {r["way"]: r["status"] for r in rows} == {"state": "ok", "state-eager": "failed"}
    assert all("no kernel image" in r["reason"] for r in rows if r["status"] == "failed")


def test_what_there_is_no_time_for_is_said(watch):
    watch.deadline = 0
    for part in (study.states, study.caches, study.prompts):
        assert {r["status"] for r in part(watch)} == {"skipped"}


def test_drift_is_the_error_against_float64(watch):
    rows = list(study.drift(watch))
    last = {r["rounding"]: r for r in rows if r["N"] == 64}
    assert last["float32"]["z_error"] < 1e-6 < last["float16"]["z_error"]
    assert last["float16"]["z_error"] < last["bfloat16"]["z_error"]
    assert last["float32"]["z_mean"] == pytest.approx(last["float32"]["z_exact"])


def test_a_part_that_fails_leaves_the_others(monkeypatch):
    def broken(watch):
        yield {"what": "token", "status": "ok"}
        raise ValueError("no")

    def fine(watch):
        yield {"what": "drift", "status": "ok"}

    monkeypatch.setattr(study, "Watch", lambda *a, **k: None)
    monkeypatch.setattr(study.hardware, "default_dtype", lambda: torch.float32)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    for name in ("states", "caches", "prompts"):
        monkeypatch.setattr(study, name, broken)
    monkeypatch.setattr(study, "drift", fine)
    rows = study.measure(True, lambda text: None)
    assert [r["status"] for r in rows] == ["ok", "failed"] * 3 + ["ok"]
