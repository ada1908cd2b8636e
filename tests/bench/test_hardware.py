"""Provenance, with and without a GPU, git or nvidia-smi."""

import time
from contextlib import contextmanager
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch

from bench import hardware


def test_slug():
    assert hardware.slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
    assert hardware.slug("Tesla T4") == "tesla-t4"


def test_without_a_gpu(monkeypatch):
    monkeypatch.setattr(hardware, "has_gpu", lambda: False)
    facts = hardware.provenance("python -m bench run")
    assert (facts.gpu, facts.slug) == ("none", "none")
    assert facts.torch == torch.__version__
    assert facts.command == "python -m bench run"
    assert facts.sm_count is None
    assert facts.date.endswith("Z")


def test_commit_without_git(monkeypatch):
    monkeypatch.setattr(hardware, "_output", lambda *_: None)
    monkeypatch.delenv("BOOK_COMMIT", raising=False)
    assert hardware._commit() == (None, None)
    monkeypatch.setenv("BOOK_COMMIT", "abc123")
    assert hardware._commit() == ("abc123", False)


def test_commit_is_not_that_of_another_repository(monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "ROOT", tmp_path)
    monkeypatch.delenv("BOOK_COMMIT", raising=False)
    assert hardware._commit() == (None, None)


def test_commit_and_changes(monkeypatch, tmp_path):
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(hardware, "ROOT", tmp_path)
    said = {"rev-parse": "abc123", "status": " M kernels/ops.py"}
    monkeypatch.setattr(hardware, "_output", lambda *command: said[command[3]])
    assert hardware._commit() == ("abc123", True)
    said["status"] = ""
    assert hardware._commit() == ("abc123", False)


def test_nvidia_smi(monkeypatch):
    monkeypatch.setattr(hardware, "_output", lambda *_: "575.1, 1980, 1980, 2619, [N/A]")
    facts = hardware._nvidia_smi("uuid")
    assert facts["driver"] == "575.1"
    assert facts["sm_clock_mhz"] == 1980
    assert facts["power_limit_w"] is None
    monkeypatch.setattr(hardware, "_output", lambda *_: None)
    assert hardware._nvidia_smi(None) == {}


def test_busy_works_until_the_block_ends():
    done = []
    with hardware.busy(lambda: done.append(time.sleep(0.001))):
        deadline = time.monotonic() + 10
        while len(done) < 3 and time.monotonic() < deadline:
            time.sleep(0.001)
    after = len(done)
    assert after >= 3
    time.sleep(0.02)
    assert len(done) == after


def test_clocks_are_read_within_the_load(monkeypatch):
    inside = []

    @contextmanager
    def load():
        inside.append(True)
        yield
        inside.clear()

    gpu = SimpleNamespace(
        name="G", major=9, minor=0, multi_processor_count=2, total_memory=1, L2_cache_size=1
    )
    monkeypatch.setattr(hardware, "has_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: gpu)
    read = {"sm_clock_mhz": 345}
    monkeypatch.setattr(
        hardware, "_nvidia_smi", lambda _: {"sm_clock_mhz": 1980} if inside else read
    )
    assert hardware.provenance("x", load).sm_clock_mhz == 1980
    assert hardware.provenance("x").sm_clock_mhz == 345


def test_absent_command():
    assert hardware._output("no-such-command-anywhere") is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU to describe")
def test_this_gpu():
    facts = asdict(hardware.provenance())
    assert facts["gpu"] != "none"
    for name in ("capability", "sm_count", "memory_bytes", "l2_bytes"):
        assert facts[name], name


def test_a_line_does_not_say_that_no_gpu_recorded_it():
    some = hardware.provenance()
    assert replace(some, gpu="none").line(live=False) == "not measured on a GPU yet"
    assert replace(some, gpu="A GPU").line(live=False).startswith("recorded on A GPU, ")
