"""What chapters open: live on a GPU, recorded elsewhere, and always said which."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import bench
from bench import any_two, book, figures, hardware, results, scaling, tables
from bench.errors import BenchError


@pytest.fixture
def gpu(monkeypatch):
    """As if there were a GPU; what would measure on it is replaced by each test."""
    monkeypatch.setattr(hardware, "has_gpu", lambda: True)
    monkeypatch.setattr(hardware, "default_dtype", lambda: torch.bfloat16)


@pytest.fixture
def directory(record, tmp_path):
    results.write(record, tmp_path / "made-up-gpu-1.json")
    return tmp_path


def test_recorded_without_a_gpu(directory, monkeypatch):
    monkeypatch.setattr(hardware, "has_gpu", lambda: False)
    session = bench.session(directory)
    assert not session.live
    assert len(session.records) == 1
    assert repr(session).startswith(
        "There is no GPU here, so what follows was recorded on Made-up GPU 1, 2026-01-02"
    )


def test_live_with_a_gpu_and_the_record_beside_it(record, directory, gpu, monkeypatch):
    live = replace(record, live=True)
    monkeypatch.setattr(book, "run", lambda *a, **k: live)
    session = bench.session(directory)
    assert session.live
    assert [r.live for r in session.records] == [True, False]
    assert repr(session).startswith("Measured here: live on Made-up GPU 1")


def test_recorded_when_the_gpu_cannot_be_measured(directory, gpu, monkeypatch):
    def fail(*_, **__):
        raise BenchError("it is on fire")

    monkeypatch.setattr(book, "run", fail)
    session = bench.session(directory)
    assert not session.live
    assert "could not be measured (it is on fire)" in repr(session)


def test_the_chapters_of_a_build_measure_once(record, directory, gpu, tmp_path, monkeypatch):
    shared = tmp_path / "build" / "live.json"
    monkeypatch.setenv(book.SHARED, str(shared))
    runs = []
    monkeypatch.setattr(book, "run", lambda *a, **k: runs.append(1) or replace(record, live=True))
    first, second = bench.session(directory), bench.session(directory)
    assert len(runs) == 1
    assert first.live and second.live
    assert second.main.to_json() == first.main.to_json()
    bench.session(directory, plans=[object()])  # plans of its own are measured for themselves
    assert len(runs) == 2


def test_what_chapters_measure_is_enough_for_their_figures(record, make_measurement):
    entries = [
        (c, shape, work)
        for plan in book.reduced("bfloat16")
        for shape in plan.shapes()
        for work in plan.works
        for c in plan.contenders
    ]
    assert len(set(entries)) == len(entries), "nothing is measured twice"
    longest = max(shape.N for _, shape, _ in entries)
    softmax = [e for e in entries if e[0].startswith("sdpa")]
    assert all(work == "forward" for _, shape, work in softmax if shape.N > longest // 16)
    assert any(work != "forward" for _, shape, work in softmax)
    live = replace(record, measurements=[make_measurement(*e) for e in entries], live=True)
    for B, causal in ((8, False), (1, True)):
        assert tables.fastest_softmax(live, B=B, N=longest, causal=causal, work="forward")
        for work in ("forward", "forward+backward"):
            assert scaling.on_paper(live, causal, work, 0.02) is not None
    draw = (figures.time_by_length, figures.share_of_floor, figures.speedup_by_length)
    for figure in (*draw, figures.under_the_roof, figures.backward_cost):
        assert all(figure([live, record]).alts.values())
    assert " at N = " in any_two.AnyTwo([live, record]).alt()


def test_neither_gpu_nor_record(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "has_gpu", lambda: False)
    with pytest.raises(BenchError, match="holds no record"):
        bench.session(tmp_path)


def test_names_of_the_package():
    assert bench.session is book.session
    assert callable(bench.claim)
    assert bench.figures.time_by_length
    assert "session" in dir(bench)
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = bench.nothing_here


def test_another_package_called_kernels_is_refused_at_once(tmp_path):
    other = tmp_path / "kernels"
    other.mkdir()
    (other / "__init__.py").write_text("")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(hardware.ROOT)])}
    command = [sys.executable, "-c", "import bench"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert last.startswith(f"ImportError: `import kernels` finds {other}")
    assert "uninstall the other package" in last
