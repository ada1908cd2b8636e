"""The study of one sequence over several GPUs, run small by two processes on the CPU."""

import inspect
import os
from types import SimpleNamespace

import pytest
import torch

from bench import hardware, studies
from bench import parallel_figures as figures
from bench.studies import sequence_parallel as study
from kernels import ops, sequence_parallel_attention


def shrink():
    study.H, study.D, study.SIZE = 2, 16, 16 * 17
    study.LENGTHS, study.QUICK_LENGTHS, study.GATED = (32, 64), (32,), 50
    study.COMPARED = (64,)
    study.SENT = (1024,)
    study.SAMPLES = study.QUICK_SAMPLES = study.IN_A_ROW = 1
    study.LIMIT_S = study.ALONE_LIMIT_S = study.QUICK_S = 600.0
    torch.set_num_threads(1)
    ops._kernels_run = lambda x: False  # the interpreter would take minutes


def small(rank, ranks, folder, quick, device):
    shrink()
    study._spawned(rank, ranks, folder, quick, device)


def wrong(rank, ranks, folder, quick, device):
    """The last rank is wrong in the causal order, and dies in the end."""
    shrink()
    real, calls = study.sequence_parallel_attention, study.Ranks.calls

    def louder(*tensors, causal, **options):
        return real(*tensors, causal=causal, **options) * (1.5 if causal and rank else 1.0)

    def then_dies(self):
        yield from calls(self)
        if rank:
            os._exit(1)
        self.all(None)

    study.sequence_parallel_attention = louder
    study.Ranks.calls = then_dies
    study._spawned(rank, ranks, folder, True, device)


@pytest.fixture(scope="module")
def rows():
    return study.spawned(2, False, "cpu", small)


def test_every_length_is_timed_on_one_rank_and_on_two(rows):
    assert {r["status"] for r in rows} == {"ok"}, rows
    calls = [r for r in rows if r["what"] == "call"]
    assert all(r["device_ms"] > 0 and r["eager_ms"] > 0 and r["spread"] >= 1 for r in calls)
    seen = {(r["ranks"], r["N"], r["causal"], r["work"], r["way"]) for r in calls}
    orders = [(c, w) for c in (False, True) for w in ("forward", "forward+backward")]
    ways = {32: [(1, "one-gpu"), (2, "no-overlap")]}
    ways[64] = ways[32] + [(2, "both"), (2, "no-check")]
    assert seen == {(n, N, *o, way) for N in ways for n, way in ways[N] for o in orders}
    assert len(calls) == len(seen)
    studies.Study("sequence-parallel", hardware.Provenance("", "", "", "", "", ""), rows)


def test_each_way_is_called_as_its_name_says_whatever_the_default():
    calls = inspect.signature(sequence_parallel_attention).parameters
    comes = {name: calls[name].default for name in ("overlap", "check")}
    assert {way: {**comes, **options} for way, options in study.WAYS.items()} == {
        "both": {"overlap": True, "check": True},
        "no-overlap": {"overlap": False, "check": True},
        "no-check": {"overlap": True, "check": False},
    }
    assert study.WAYS[study.AS_IT_COMES] == {} and figures.AS_IT_COMES == study.AS_IT_COMES


def test_a_host_that_is_held_up_once_is_not_in_the_time_of_a_row(monkeypatch):
    """And the slowest rank counts; ranks that take no part have no times."""
    clock, calls = [0.0], []

    def call():
        calls.append(None)
        clock[0] += 1e3 if len(calls) == 20 else 1e-3

    monkeypatch.setattr(study.dist, "barrier", lambda group: None)
    monkeypatch.setattr(study.time, "perf_counter", lambda: clock[0])
    ranks = SimpleNamespace(rank=0, hosts=None, synchronize=lambda: None)
    ranks.all = lambda mine: [mine, [1.5 * x for x in mine], []]
    assert study.Ranks.eager_time(ranks, call, 2) == pytest.approx(1.5)
    assert len(calls) == 1 + study.ROWS * study.IN_A_ROW > 20


def test_what_is_sent_is_a_state_for_each_head(rows):
    sent = {(r["ranks"], r["work"]): r["sent_bytes"] for r in rows if r["what"] == "call"}
    once = 4 * 2 * (16 * 16 + 16)
    assert sent == {
        (1, "forward"): 0, (1, "forward+backward"): 0,
        (2, "forward"): once, (2, "forward+backward"): 2 * once,
    }  # fmt: skip


def test_the_exchange_alone_and_the_machine(rows):
    ops = {r["op"] for r in rows if r["what"] == "exchange"}
    assert ops == {"all-gather", "all-reduce", "agreement"}
    (machine,) = (r for r in rows if r["what"] == "machine")
    assert machine["ranks"] == 2 and machine["gpus"] == "CPU, CPU"
    assert max(r["error"] for r in rows if r["what"] == "gate") < 1e-5


def test_a_wrong_result_is_not_timed_and_a_rank_that_dies_leaves_what_there_is():
    rows = study.spawned(2, True, "cpu", wrong)
    gates = {r["causal"]: r for r in rows if r["what"] == "gate"}
    assert gates[True]["status"] == "wrong" and "o, dq" in gates[True]["reason"]
    assert gates[False]["status"] == "ok"
    calls = [r for r in rows if r["what"] == "call" and r["ranks"] == 2 and r["causal"]]
    assert calls and all(r["status"] == "wrong" and "device_ms" not in r for r in calls)
    assert rows[0]["what"] == "machine"
    assert rows[-1]["what"] == "ranks" and rows[-1]["status"] == "failed"


def test_one_gpu_has_pieces_only():
    rows = study.spawned(1, False, "cpu", small)
    assert {r["status"] for r in rows} == {"ok"}, rows
    assert {r["what"] for r in rows} == {"machine", "gate", "call", "piece"}
    assert {r["N"] for r in rows if r["what"] == "piece"} == {64}
