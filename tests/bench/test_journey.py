"""The study of the optimization ladder, run small and without a GPU; the rows keep their form."""

import contextlib
import math
import time
from types import SimpleNamespace

import pytest
import torch

from bench import compiled, studies, timing
from bench.studies import journey as study
from kernels.steps.journey import STEPS

CODE = compiled.Compiled({"sass": "/*0010*/ MUFU.EX2 R1, R2 ;"}, 4, 49152, 96, 0)
SASS = "/*0010*/ MUFU.EX2 R1, R2 ;\n/*0020*/ LDS R3, [R4] ;\n/*0030*/ BRA 0x0010 ;"


@pytest.fixture
def watch(monkeypatch):
    """A watch on the host's clock with tiny tensors, and no compiler and no profiler."""

    @contextlib.contextmanager
    def caught(kernel):
        yield [SimpleNamespace(asm={"cubin": b"code"})]

    monkeypatch.setattr(compiled, "caught", caught)
    monkeypatch.setattr(compiled, "describe", lambda kernel, sass=True: CODE)
    monkeypatch.setattr(study.profiling, "disassemble", lambda cubin: SASS)
    monkeypatch.setattr(
        study.profiling,
        "kernel_times",
        lambda call, repeats: [{"kernel": "state_kernel", "launches": 1.0, "ms": 0.5, "share": 1}],
    )
    monkeypatch.setattr(study, "SLOW", {"python-loop": 32, "rows": 64})
    sampling = timing.Sampling(least=1, most=1, budget_s=0.0, warm_up=0)
    return study.Watch(
        timing.HostClock(), sampling, True, time.monotonic() + 600,
        device="cpu", dtype=torch.float32, N=512, H=1, batches=(1,),
    )  # fmt: skip


@pytest.mark.parametrize("part", study.PARTS, ids=lambda part: part.__name__)
def test_every_part_gives_rows_that_a_study_can_hold(part, watch):
    rows = list(part(watch))
    assert rows and all(row["part"] for row in rows)
    assert all(row.get("status", "ok") == "ok" for row in rows), rows
    for row in rows:
        for value in row.values():
            assert value is None or isinstance(value, (str, bool, int, float))
            assert not isinstance(value, float) or math.isfinite(value)


def test_every_step_stands_beside_the_floor(watch):
    rows = [row for row in study.steps(watch) if row["part"] == "step"]
    assert [row["step"] for row in rows] == [step.name for step in STEPS]
    assert all(row["floor_ms"] > 0 and row["median_ms"] > 0 for row in rows)
    assert all(row["error"] < 1e-5 for row in rows)


def test_a_slow_step_is_measured_short_and_says_so(watch):
    row = next(row for row in study.steps(watch) if row.get("step") == "python-loop")
    assert row["scaled"] and row["measured_N"] == 32 and row["N"] == 512
    assert row["median_ms"] == pytest.approx(16 * row["host_ms"])


def test_a_wrong_step_is_not_timed(watch, monkeypatch):
    def wrong(q, k, v, out=None):
        return v * float("nan")

    broken = (STEPS[4]._replace(forward=wrong), STEPS[6])
    monkeypatch.setattr(study, "STEPS", broken)
    rows = [row for row in study.steps(watch) if row["part"] == "step"]
    assert rows[0]["status"] == "wrong" and rows[0]["median_ms"] is None
    assert rows[1]["status"] == "ok" and rows[1]["median_ms"] > 0


def test_a_step_that_does_not_run_is_a_row(watch, monkeypatch):
    def fail(q, k, v, out=None):
        raise RuntimeError("out of resource: shared memory")

    monkeypatch.setattr(study, "STEPS", (STEPS[4]._replace(forward=fail), STEPS[6]))
    rows = [row for row in study.steps(watch) if row["part"] == "step"]
    assert rows[0]["status"] == "failed" and "shared memory" in rows[0]["reason"]
    assert rows[0]["median_ms"] is None and rows[1]["median_ms"] > 0


def test_the_code_of_every_kernel_is_described(watch):
    rows = [row for row in study.code(watch) if row["part"] == "code"]
    assert len(rows) == sum(len(step.kernels) for step in STEPS)
    assert rows[0]["registers"] == 96 and rows[0]["loop: special functions"] == 1
    assert len({row["hash"] for row in rows}) == 1  # the same instructions, the same hash


def test_the_machine_code_of_every_kernel_is_shown(watch):
    texts = [row for row in study.code(watch) if row["part"] == "text"]
    every = [(step.name, which) for step in STEPS for which, _ in step.kernels]
    assert [(row["step"], row["pass"]) for row in texts] == every and ("library", "state") in every
    assert all("MUFU.EX2" in row["text"] for row in texts)


def test_lines_of_machine_code_are_told_apart(monkeypatch):
    """As cuobjdump writes them: what is computed behind them is its encoding."""
    sass = (
        "  /*0010*/  @!P0 HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8].tnspA.tnspB, R24 ; /* 0xa */\n"
        "                                                                   /* 0xb */\n"
        "  /*0020*/  MEMBAR.ALL.CTA ; /* 0xc */\n  /*0030*/  DEPBAR.LE SB0, 0x0 ; /* 0xd */\n"
        "  /*0040*/  BAR.SYNC 0x0 ; /* 0xe */\n  /*0050*/  LDGDEPBAR ; /* 0xf */\n"
    )
    monkeypatch.setattr(compiled, "describe", lambda kernel, sass=True: CODE)
    monkeypatch.setattr(study.profiling, "disassemble", lambda cubin: sass)
    row, text = study.facts_of(SimpleNamespace(asm={"cubin": b"code"}))
    lines = text.splitlines()
    assert lines[0].startswith("/*0010*/  @!P0 HGMMA.64x64x16.F32.BF16 R24, gdesc[UR8]")
    assert lines[1:] == ["/*0040*/  BAR.SYNC 0x0 ;"] and row["loop"] == 0


def test_the_library_is_described_in_the_form_that_was_timed(watch, monkeypatch):
    """Not by a short call, which takes another kernel, nor by one that is replayed."""
    seen = []

    def launched(q, k, v):
        seen.append(tuple(q.shape))
        return v

    monkeypatch.setattr(study, "STEPS", (STEPS[6], STEPS[-1]._replace(forward=launched)))
    forgotten = []
    monkeypatch.setattr(study.launch, "forget", lambda: forgotten.append(True))
    watch.N, watch.batches = 2048, (2, 1)
    rows = [row for row in study.code(watch) if row["part"] == "code"]
    assert seen == [(2, 1, 2048, 64)] and forgotten
    tiles = {(row["step"], row["pass"]): row["rows"] for row in rows}
    assert tiles["fused", "state"] == 64 and tiles["library", "state"] == 32  # the interpreter's


def test_waves_count_programs_and_tiles(watch):
    for row in study.waves(watch):
        assert row["programs"] * row["tiles"] * 128 >= row["N"]


def test_it_is_known():
    assert "journey" in studies.names() and "\n" not in studies.about("journey")
