"""Tuning: candidates, one that kills its process, and the table that comes of it."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bench import BenchError, fresh, tuning
from bench.roofline import Shape
from kernels import configs

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "kernels"))
import ahead  # noqa: E402


def test_candidates_fit_the_table():
    for kernel, features in tuning.kernels():
        tiles = tuning.candidates(kernel, features)
        assert len(set(tiles)) == len(tiles)
        if (kernel, features) == tuning.CHAIN:
            assert configs.CHAINED[:2] in tiles
        else:
            assert configs.HOPPER[kernel, features] in tiles, f"{kernel} was never a candidate"
            assert all(values <= features for _, values, *_ in tiles)
    every = tuning.candidates("state_kernel", 64)
    assert len(tuning.candidates("state_kernel", 64, quick=True)) < len(every) / 2


def test_the_call_that_launches_a_kernel():
    assert tuning.work_of("causal_backward_key_kernel") == (True, "forward+backward")
    assert tuning.work_of("state_kernel") == (False, "forward")
    assert tuning.shape_of("short_kernel", 64).N == 1024
    assert tuning.shape_of("short_kernel", 128).N == 512
    assert tuning.shape_of("state_kernel", 64) == Shape(8, 8, 65536)
    causal = tuning.shape_of("causal_output_kernel", 128)
    assert causal.causal and causal.B * causal.H == 32


PRETENDED = """
import json, sys
import ahead
import torch
from bench import contenders, runner, tuning
from kernels import configs, ops

(contender,) = map(json.loads, sys.argv[1:])
configs.hardware = lambda device: (90, 132)
ops._kernels_run = lambda x: True
launched = []
ahead.see_launches(lambda kernel, values, options: launched.append((kernel, values | options)))
found = []
for kernel, features in tuning.kernels():
    tile = tuning.candidates(kernel, features)[0]
    tuning.put(kernel, features, tile)
    shape, (causal, work) = tuning.shape_of(kernel, features), tuning.work_of(kernel)
    given = shape.B, shape.H, shape.N, shape.D
    q, k, v, do = torch.empty(4, *given, dtype=torch.bfloat16, device="meta")
    launched.clear()
    made = contenders.get(contender or tuning.contender_of(kernel))
    runner.call_of(made, q, k, v, None if work == "forward" else do, causal)()
    mine = [values for one, values in launched if one.fn.__name__ == kernel]
    names = {"rows": "BLOCK_N", "values": "BLOCK_DV", "segment": "SEGMENT"}
    names |= {"num_warps": "num_warps", "num_stages": "num_stages"}
    took = all(
        values[names[field]] == n
        for values in mine
        for field, n in zip(tuning.fields(kernel), tile)
        if field in names
    )
    found.append([kernel, features, len(mine), took])
print(json.dumps(found))
"""


def test_each_entry_is_launched_by_its_own_call_and_with_its_tile():
    found = ahead.run(PRETENDED, None)
    assert len(found) == len(configs.HOPPER) + 1
    for kernel, features, launches, took in found:
        assert launches and took, f"{kernel}, {features}: {launches} launches"
    without = {kernel for kernel, _, launches, _ in ahead.run(PRETENDED, "book") if not launches}
    assert without == {kernel for kernel, _ in configs.HOPPER if kernel.startswith("decay_")}


def test_what_a_kernel_has_to_move():
    assert set(tuning.TENSORS) == {kernel for kernel, _ in tuning.kernels()}
    shape = tuning.shape_of("state_kernel", 64)
    assert tuning.bytes_of("state_kernel", shape) == 2 * 8 * 8 * 65536 * 64 * 2
    # a call of two passes moves what its kernels do, and a backward pass at least seven tensors
    assert tuning.TENSORS["state_kernel"] + tuning.TENSORS["output_kernel"] == 4
    assert tuning.TENSORS["backward_query_kernel"] + tuning.TENSORS["backward_key_kernel"] == 7


def pretend(monkeypatch, capability=(9, 0)):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "some GPU")


def test_a_gpu_on_which_nobody_reads_the_table_is_refused(monkeypatch):
    pretend(monkeypatch, (8, 0))
    with pytest.raises(BenchError, match="on GPUs of sm_90 alone.* some GPU is of sm_80"):
        tuning.tune([("state_kernel", 64)], True, lambda text: None)


def timed(tile, kernel_ms, **changes):
    times = {"kernel_ms": kernel_ms, "floor_ms": 0.25, "call_ms": 1.0}
    row = tuning._row("state_kernel", 64, tile)
    return row | {"status": "ok", "reason": None} | times | changes


def test_what_is_tried_is_put_into_the_table_and_timed_beside_its_floor(monkeypatch):
    """With a clock, a profiler and inputs that need no GPU."""
    asked = []

    class Inputs:
        def __init__(self, shape, gradients):
            self.truth = lambda function: None

    def raced(lanes, clock, sampling):
        for lane in lanes:
            lane.device_ms.append(lane.call())

    def prepared(contender, inputs, work):
        asked.append((contender.name, work, configs.HOPPER["decay_state_kernel", 64]))
        return lambda: 2.0, lambda result: result

    tiles = [(64, 64, 1, 4, 2), (32, 64, 1, 4, 2), (32, 64, 2, 4, 2)]
    launched = iter(["decay_state_kernel", "another_kernel", "decay_state_kernel"])
    good = SimpleNamespace(ok=True, reason=None)
    monkeypatch.setattr(tuning.runner, "Inputs", Inputs)
    monkeypatch.setattr(tuning.runner, "prepare", prepared)
    monkeypatch.setattr(tuning, "DeviceClock", lambda: SimpleNamespace(lost=lambda: False))
    monkeypatch.setattr(tuning, "copy_call", lambda nbytes: lambda: nbytes / 2**28)
    monkeypatch.setattr(tuning, "race", raced)
    monkeypatch.setattr(tuning.gate, "judge", lambda named, truth, dtype: good)
    monkeypatch.setattr(
        tuning.profiling, "kernel_times", lambda call, n: [{"kernel": next(launched), "ms": 0.5}]
    )
    monkeypatch.setattr(configs, "HOPPER", dict(configs.HOPPER))
    rows = list(tuning.try_all("decay_state_kernel", 64, tiles))
    assert asked == [("book-decay", "forward", tile) for tile in tiles]
    assert [r["status"] for r in rows] == ["ok", "failed", "ok"]
    assert "launches another_kernel, and not it" in rows[1]["reason"]
    assert [(r["kernel_ms"], r["floor_ms"], r["call_ms"]) for r in rows[::2]] == [(0.5, 2, 2)] * 2


def test_a_candidate_that_kills_its_process_is_a_row_and_the_rest_go_on(monkeypatch):
    tiles = [(64, 64, 2, 4, 1), (64, 64, 2, 4, 2), (128, 64, 2, 4, 2), (128, 64, 2, 8, 3)]
    asked = []

    def stream(module, function, options, timeout_s, tell):
        assert timeout_s > len(options["tiles"]) * 10
        left = [tuple(t) for t in options["tiles"]]
        asked.append(len(left))
        found = []
        for tile in left:
            if tile == tiles[1]:
                return found, "its process ended (SIGABRT): CUDA error"
            found.append(timed(tile, kernel_ms=tile[0] / 100))
            tell(found[-1])
        return found, None

    monkeypatch.setattr(tuning, "candidates", lambda kernel, features, quick: tiles)
    monkeypatch.setattr(fresh, "stream", stream)
    pretend(monkeypatch)
    said = []
    rows = tuning.tune([("state_kernel", 64)], False, said.append)
    assert asked == [4, 2]
    assert [r["status"] for r in rows] == ["ok", "failed", "ok", "ok"]
    assert "SIGABRT" in rows[1]["reason"]
    assert tuning.best(rows)["state_kernel", 64]["rows"] == 64
    assert '("state_kernel", 64): (64, 64, 2, 4, 1),' in tuning.lines(rows)
    assert "1 refused" in str(tuning.table(rows, "here"))
    assert "floor [ms]" in str(tuning.table(rows, "here"))
    assert [text.split(": ")[1] for text in said[1:]][0::2] == ["0.64 ms", "1.28 ms"]
    assert "stages 2: its process ended (SIGABRT)" in said[2]


def test_a_kernel_of_which_nothing_was_verified_keeps_its_tile():
    failed = tuning._row("output_kernel", 64, (64, 64, 2, 4, 1)) | tuning._failed("no")
    text = tuning.lines([timed((64, 64, 2, 4, 1), 0.5), failed])
    made = {}
    exec(text, made)
    won = {("state_kernel", 64): (64, 64, 2, 4, 1)}
    assert made["HOPPER"] == configs.HOPPER | won
    (said,) = (line for line in text.splitlines() if "as before" in line)
    assert '("output_kernel", 64)' in said
    row = tuning._row("chained_kernel", 64, (512, 64)) | tuning._failed("no")
    assert tuning.lines([row]).startswith(f"CHAINED = {configs.CHAINED!r}  # as before")


def test_the_chained_kernel_has_a_shape_of_its_own():
    row = tuning._row("chained_kernel", 64, (512, 64)) | {"kernel_ms": 0.5, "call_ms": 0.6}
    rows = [row | {"status": "ok", "reason": None, "floor_ms": None}]
    assert tuning.work_of("chained_kernel") == (True, "forward")
    assert tuning.shape_of("chained_kernel", 64) == Shape(8, 8, 65536, causal=True)
    assert tuning.lines(rows).startswith("CHAINED = Chained(segment=512, rows=64, fewest=")
    assert "segment 512, rows 64" in str(tuning.table(rows, "here"))


def test_wrong_candidates_never_win():
    rows = [timed((64, 64, 2, 4, 1), 0.5), timed((64, 64, 2, 4, 2), 0.1, status="wrong")]
    assert tuning.best(rows)["state_kernel", 64]["num_stages"] == 1


def test_caches_of_the_kernels_are_emptied():
    configs.tile("state_kernel", 64, 64, torch.bfloat16, 90)
    assert configs.tile.cache_info().currsize > 0
    tuning.forget()
    assert configs.tile.cache_info().currsize == 0


def test_what_a_fresh_process_yields_before_it_dies():
    found, failure = fresh.stream("itertools", "repeat", {"object": {"x": 1}, "times": 3})
    assert found == [{"x": 1}] * 3 and failure is None
    found, failure = fresh.stream("itertools", "chain", {"wrong": 1})
    assert found == [] and "TypeError" in failure
