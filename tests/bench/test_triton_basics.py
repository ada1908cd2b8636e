"""The study of the first Triton kernels, run small and without a GPU; the rows keep their form."""

import contextlib
import math
import time
from types import SimpleNamespace

import pytest
import torch

from bench import compiled, studies, timing
from bench.studies import triton_basics as study

CODE = compiled.Compiled(
    {"sass": "/*0010*/ LDG.E.128 R0, desc[UR4][R2.64] ;", "ttir": "tt.load %a"}, 4, 16, 26, 0
)


@pytest.fixture
def watch(monkeypatch):
    """A watch on the host's clock with tiny tensors, and no compiler."""

    @contextlib.contextmanager
    def caught(kernel):
        yield [SimpleNamespace()]

    monkeypatch.setattr(compiled, "caught", caught)
    monkeypatch.setattr(compiled, "describe", lambda kernel, sass=True: CODE)
    monkeypatch.setattr(study, "old", lambda: False)
    monkeypatch.setattr(study, "multiprocessors", lambda: 1)
    monkeypatch.setattr(study.hardware, "default_dtype", lambda: torch.float32)
    sampling = timing.Sampling(least=1, most=1, budget_s=0.0, warm_up=0)
    clock = timing.HostClock()
    return study.Watch(clock, sampling, True, time.monotonic() + 600, device="cpu", most=2**9)


@pytest.mark.parametrize("part", study.PARTS, ids=lambda part: part.__name__)
def test_every_part_gives_rows_that_a_study_can_hold(part, watch):
    rows = list(part(watch))
    assert rows and all(row["part"] for row in rows)
    assert all(row.get("status", "ok") == "ok" for row in rows), rows
    for row in rows:
        for value in row.values():
            assert value is None or isinstance(value, (str, bool, int, float))
            assert not isinstance(value, float) or math.isfinite(value)
    timed = [row for row in rows if "floor_ms" in row]
    assert all(row["floor_ms"] > 0 and row["median_ms"] > 0 for row in timed)


def test_what_is_compiled_before_runs_and_is_what_is_measured(watch, monkeypatch):
    def forms(launch):
        """The sizes that kernels were launched with."""
        seen = set()

        def noted(kernel):
            run = kernel.run

            def keep(*args, **kwargs):
                sizes = {k: v for k, v in kwargs.items() if k.isupper() or k.startswith("num_")}
                seen.add((kernel.__name__, *sorted(sizes.items())))
                return run(*args, **kwargs)

            return keep

        with monkeypatch.context() as patch:
            for module in (study.vector_add, study.softmax, study.matmul):
                for kernel in (x for n, x in vars(module).items() if n.endswith("_kernel")):
                    patch.setattr(kernel, "run", noted(kernel), raising=False)
            launch()
        return seen

    monkeypatch.setattr(compiled, "at_once", lambda calls: [call() for call in calls])
    before = forms(lambda: study.compile_all(watch))
    for part in (study.tiles, study.warps):
        measured = forms(lambda part=part: list(part(watch)))
        assert measured and measured <= before, part.__name__


def test_the_fastest_setting_is_used_after_the_sweep(watch):
    rows = [row for row in study.tiles(watch) if row["status"] == "ok"]
    fastest = min(rows, key=lambda row: row["median_ms"])
    assert watch.best["num_stages"] == fastest["num_stages"]
    assert watch.best["tile"] == tuple(fastest[f"BLOCK_{x}"] for x in "MNK")


def test_a_wrong_result_is_not_timed(watch, monkeypatch):
    monkeypatch.setattr(study.vector_add, "add", lambda x, y, out=None, **kwargs: x * float("nan"))
    rows = list(study.vector_adds(watch))
    ours = [row for row in rows if row["contender"] == "triton"]
    assert all(row["status"] == "wrong" and row["median_ms"] is None for row in ours)
    assert all(row["status"] == "ok" for row in rows if row["contender"] == "torch")


def test_a_kernel_that_does_not_run_is_a_row(watch, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("out of resource: shared memory")

    monkeypatch.setattr(study.matmul, "matmul", fail)
    rows = list(study.tiles(watch))
    assert all(row["status"] == "failed" and "shared memory" in row["reason"] for row in rows)


def test_a_part_may_fail_without_the_others(watch, monkeypatch):
    def broken(watch):
        yield {"part": "first"}
        raise ValueError("no")

    monkeypatch.setattr(study, "PARTS", (broken, lambda watch: iter([{"part": "second"}])))
    study.PARTS[1].__name__ = "fine"
    monkeypatch.setattr(study.timing, "DeviceClock", timing.HostClock)
    rows = study.measure(False, lambda text: None)
    assert [row["part"] for row in rows] == ["first", "failed", "second"]
    assert rows[1]["reason"] == "ValueError: no"


def test_it_is_known():
    assert "triton-basics" in studies.names() and "\n" not in studies.about("triton-basics")
