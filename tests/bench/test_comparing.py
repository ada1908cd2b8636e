"""Two records side by side: which work speeds up with the memory, and which does not."""

import json
from dataclasses import replace

import pytest

from bench import cli, comparing, results
from bench.results import Record


@pytest.mark.parametrize(
    ("speedup", "copies", "verdict"),
    [
        (1.40, 1.4, "memory"),
        (1.35, 1.4, "memory"),
        (1.2, 1.4, "both"),
        (1.02, 1.4, "not memory"),
        (0.95, 1.4, "not memory"),
        (1 / 1.4, 1 / 1.4, "memory"),
        (1.3, 1.02, "cannot be told"),
    ],
)
def test_what_binds(speedup, copies, verdict):
    assert comparing.binds(speedup, copies) == verdict


def faster_memory(record: Record) -> Record:
    """The same GPU with 1.4 times the memory: copies and the book gain, softmax does not."""

    def change(m):
        if not m.ok:
            return m
        gain = 1.4 if m.contender in ("book", "eager") else 1.0
        return replace(
            m,
            floor_ms=m.floor_ms / 1.4,
            median_ms=m.median_ms / gain,
            p20_ms=m.p20_ms / gain,
            p80_ms=m.p80_ms / gain,
        )

    provenance = replace(record.provenance, gpu="Made-up GPU 2", slug="made-up-gpu-2")
    return replace(record, provenance=provenance, measurements=[*map(change, record.measurements)])


def test_rows(record):
    rows = comparing.rows(record, faster_memory(record))
    assert len(rows) == sum(m.ok for m in record.measurements)
    assert {r["binds"] for r in rows if r["contender"] == "book"} == {"memory"}
    assert {r["binds"] for r in rows if r["contender"] == "sdpa-cudnn"} == {"not memory"}
    assert all(r["copies"] == pytest.approx(1.4) for r in rows)


def test_an_unsteady_time_decides_nothing(record):
    shaky = [replace(m, unsteady=True) if m.ok else m for m in record.measurements]
    rows = comparing.rows(record, replace(record, measurements=shaky))
    assert {r["binds"] for r in rows} == {"void: unsteady"}


def test_the_command(record, tmp_path, capsys):
    one = str(results.write(record, tmp_path / "one.json"))
    two = str(results.write(faster_memory(record), tmp_path / "two.json"))
    assert cli.main(["compare", one, two]) == 0
    told = capsys.readouterr().out
    assert "Made-up GPU 1 [ms]" in told
    assert "(8, 8, 65536, 64)" in told
    assert "not memory" in told
    assert cli.main(["compare", one, two, "--seqlen", "512", "--markdown"]) == 0
    assert "| (8, 8, 512, 64) |" in capsys.readouterr().out
    assert cli.main(["compare", one, two, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 88
    assert cli.main(["compare", one, two, "--seqlen", "777"]) == 2
    assert "no verified measurement in common" in capsys.readouterr().err
