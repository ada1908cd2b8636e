"""Tuning: candidates, one that kills its process, and the table that comes of it."""

from bench import fresh, tuning
from bench.roofline import Shape
from kernels import configs


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
    assert tuning.shape_of("state_kernel", 64) == Shape(8, 8, 65536)
    causal = tuning.shape_of("causal_output_kernel", 128)
    assert causal.causal and causal.B * causal.H == 32


def timed(tile, kernel_ms, **changes):
    row = tuning._row("state_kernel", 64, tile)
    return row | {"status": "ok", "reason": None, "kernel_ms": kernel_ms, "call_ms": 1.0} | changes


def test_a_candidate_that_kills_its_process_is_a_row_and_the_rest_go_on(monkeypatch):
    tiles = [(64, 64, 2, 4, 1), (64, 64, 2, 4, 2), (128, 64, 2, 4, 2), (128, 64, 2, 8, 3)]
    asked = []

    def stream(module, function, options, timeout_s):
        left = [tuple(t) for t in options["tiles"]]
        asked.append(len(left))
        found = []
        for tile in left:
            if tile == tiles[1]:
                return found, "its process ended (SIGABRT): CUDA error"
            found.append(timed(tile, kernel_ms=tile[0] / 100))
        return found, None

    monkeypatch.setattr(tuning, "candidates", lambda kernel, features, quick: tiles)
    monkeypatch.setattr(fresh, "stream", stream)
    rows = tuning.tune([("state_kernel", 64)], False, lambda text: None)
    assert asked == [4, 2]
    assert [r["status"] for r in rows] == ["ok", "failed", "ok", "ok"]
    assert "SIGABRT" in rows[1]["reason"]
    assert tuning.best(rows)["state_kernel", 64]["rows"] == 64
    assert '("state_kernel", 64): (64, 64, 2, 4, 1),' in tuning.lines(rows)
    assert "1 refused" in str(tuning.table(rows, "here"))


def test_the_chained_kernel_has_a_shape_of_its_own():
    row = tuning._row("chained_kernel", 64, (512, 64)) | {"kernel_ms": 0.5, "call_ms": 0.6}
    rows = [row | {"status": "ok", "reason": None}]
    assert tuning.work_of("chained_kernel") == (True, "forward")
    assert tuning.shape_of("chained_kernel", 64) == Shape(8, 8, 65536, causal=True)
    assert tuning.lines(rows).startswith("CHAINED = Chained(segment=512, rows=64, fewest=")
    assert "segment 512, rows 64" in str(tuning.table(rows, "here"))


def test_wrong_candidates_never_win():
    rows = [timed((64, 64, 2, 4, 1), 0.5), timed((64, 64, 2, 4, 2), 0.1, status="wrong")]
    assert tuning.best(rows)["state_kernel", 64]["num_stages"] == 1


def test_caches_of_the_kernels_are_emptied():
    import torch

    configs.tile("state_kernel", 64, 64, torch.bfloat16, 90)
    assert configs.tile.cache_info().currsize > 0
    tuning.forget()
    assert configs.tile.cache_info().currsize == 0


def test_what_a_fresh_process_yields_before_it_dies():
    found, failure = fresh.stream("itertools", "repeat", {"object": {"x": 1}, "times": 3})
    assert found == [{"x": 1}] * 3 and failure is None
    found, failure = fresh.stream("itertools", "chain", {"wrong": 1})
    assert found == [] and "TypeError" in failure
