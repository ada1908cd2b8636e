"""The study of the chunk size: its forms are one function, and a row that fails does not end it."""

import pytest
import torch

from bench import gate, hardware, roofline, studies, truth
from bench.studies import chunk_size
from bench.timing import HostClock

N = 64


def inputs(shape, dtype):
    generator = torch.Generator().manual_seed(0)
    size = (shape.B, shape.H, shape.N, shape.D)
    q, k, v = (torch.randn(size, generator=generator).to(dtype) for _ in "qkv")
    return (q, k, v), truth.compute(chunk_size.LINEAR, shape, q, k, v)


@pytest.mark.parametrize("chunk", [1, 2, 16, 48, N, 2 * N])
@pytest.mark.parametrize("form", ["at-once", "in-turn"])
def test_every_chunk_size_computes_the_same(form, chunk):
    shape = roofline.Shape(1, 2, N, 32, 32, "bfloat16", causal=True)
    tensors, true = inputs(shape, torch.bfloat16)
    o = chunk_size.call_of(form, *tensors, chunk)()
    assert gate.judge({"o": o}, true, "bfloat16").ok


@pytest.fixture
def on_cpu(monkeypatch):
    """The study with the CPU in place of the GPU, and short sequences."""
    for name in ("synchronize", "reset_peak_memory_stats", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    for name in ("memory_allocated", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda: 0)
    monkeypatch.setattr(chunk_size, "DeviceClock", HostClock)
    monkeypatch.setattr(chunk_size, "_inputs", inputs)
    monkeypatch.setattr(chunk_size, "_tile_rows", lambda D, dtype: 64)
    monkeypatch.setattr(chunk_size.floor, "copy_call", lambda nbytes: lambda: None)
    monkeypatch.setattr(chunk_size, "N", N)
    monkeypatch.setattr(chunk_size, "CHUNKS", (1, 2, 4, 8, 16, 32, 64))
    monkeypatch.setattr(hardware, "default_dtype", lambda: torch.float16)


def rows_of(quick=True):
    rows = chunk_size.measure(quick, lambda text: None)
    studies.Study("chunk-size", hardware.Provenance("", "", "", "", "", ""), rows)
    return rows


def test_rows_have_a_time_and_an_error(on_cpu):
    rows = rows_of()
    assert {r["form"] for r in rows} == {"copy", "at-once"}
    assert {r["dtype"] for r in rows} == {"float32"}  # float16 would overflow
    assert chunk_size.forms(torch.bfloat16, True)[1] == ("kernel", 64, 64)
    assert sum(r["chunk"] == 1 for r in rows) == 2
    for row in rows:
        assert row["status"] == "ok", row
        assert row["median_ms"] > 0
        assert row["form"] == "copy" or row["error"] < 1e-5
    assert "in-turn" in {r["form"] for r in rows_of(quick=False)}


def test_a_wrong_row_is_not_timed(on_cpu, monkeypatch):
    right = chunk_size.eager.causal_attention

    def wrong(q, k, v, chunk):
        return right(q, k, v, chunk=chunk) * (2 if chunk == 4 else 1)

    monkeypatch.setattr(chunk_size.eager, "causal_attention", wrong)
    rows = rows_of()
    assert {r["chunk"] for r in rows if r["status"] == "wrong"} == {4}
    assert all("median_ms" not in r for r in rows if r["status"] == "wrong")


def test_a_row_that_fails_says_why_and_the_others_go_on(on_cpu, monkeypatch):
    right = chunk_size.eager.causal_attention

    def full(q, k, v, chunk):
        if chunk == 1:
            raise torch.OutOfMemoryError("out of memory")
        return right(q, k, v, chunk=chunk)

    monkeypatch.setattr(chunk_size.eager, "causal_attention", full)
    rows = rows_of()
    failed = [r for r in rows if r["status"] == "failed"]
    assert [r["chunk"] for r in failed] == [1, 1]
    assert all("out of memory" in r["reason"] for r in failed)
