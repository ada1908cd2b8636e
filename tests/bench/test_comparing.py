"""Two records side by side: which work speeds up with the memory, and which does not."""

import json
from dataclasses import replace

import pytest

from bench import cli, comparing, contenders, results, tables
from bench.results import Record
from bench.roofline import FORWARD, Shape


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
        (1.12, 1.15, "cannot be told"),
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


def test_a_copy_that_went_the_other_way_decides_nothing(record):
    short = min(m.N for m in record.measurements if m.ok)
    slower = [
        replace(m, floor_ms=m.floor_ms * 1.4**2) if m.ok and m.N == short else m
        for m in faster_memory(record).measurements
    ]
    rows = comparing.rows(record, replace(faster_memory(record), measurements=slower))
    assert {r["binds"] for r in rows if r["N"] == short} == {"cannot be told"}
    assert {r["binds"] for r in rows if r["N"] > short} == {"memory", "not memory"}


def test_an_unsteady_time_decides_nothing(record):
    shaky = [replace(m, unsteady=True) if m.ok else m for m in record.measurements]
    rows = comparing.rows(record, replace(record, measurements=shaky))
    assert {r["binds"] for r in rows} == {"void: unsteady"}


@pytest.mark.parametrize("spoiled", [0, 1])
def test_an_unsteady_copy_or_time_leaves_no_ratio(record, shake, spoiled):
    def told(**how):
        pair = [record, faster_memory(record)]
        pair[spoiled] = shake(pair[spoiled], **how)
        return comparing.table(*pair)

    times, copies = told(), told(floor=True)
    assert {tuple(row[-3::2]) for row in times.rows} == {("void", "void: unsteady")}
    assert all(row[-5 + spoiled].endswith("†") for row in times.rows)
    assert all(not row[-4 - spoiled].endswith("†") for row in times.rows)
    assert "† Unsteady" in times.caption and "void stands for" in times.caption
    assert {tuple(row[-2:]) for row in copies.rows} == {("void", "void: unsteady copy")}
    assert "void" not in comparing.table(record, faster_memory(record)).caption


@pytest.mark.parametrize(
    "unlike", [{"capability": "8.0"}, {"sm_count": 114}, {"sm_clock_max_mhz": 1755}]
)
def test_a_pair_is_of_two_gpus_with_one_processor(record, unlike):
    processor = {"capability": "9.0", "sm_count": 132, "sm_clock_max_mhz": 1980}
    slow = replace(record, provenance=replace(record.provenance, **processor))
    fast = faster_memory(slow)
    other = replace(fast, provenance=replace(fast.provenance, gpu="Another", **unlike))
    assert comparing.pair([fast, other, slow]) == (slow, fast)
    assert comparing.pair([slow, fast]) == (slow, fast)
    assert comparing.pair([slow, slow]) is None
    assert comparing.pair([slow, other]) is None
    assert comparing.pair([record, faster_memory(record)]) is None, "of unknown processors"
    assert comparing.pair([]) is None


def test_the_command(record, tmp_path, capsys):
    one = str(results.write(record, tmp_path / "one.json"))
    two = str(results.write(faster_memory(record), tmp_path / "two.json"))
    assert cli.main(["compare", one, two]) == 0
    told = capsys.readouterr().out
    assert "Made-up GPU 1 [ms]" in told
    assert "speed-up  of the copy  bound by" in told
    assert "(8, 8, 65536, 64)" in told
    assert "not memory" in told
    assert cli.main(["compare", one, two, "--seqlen", "512", "--markdown"]) == 0
    assert "| (8, 8, 512, 64) |" in capsys.readouterr().out
    assert cli.main(["compare", one, two, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 88
    assert cli.main(["compare", one, two, "--seqlen", "777"]) == 2
    assert (
        "Nothing was measured at N = 777 in both; known: 512, 4096, 65536."
        in capsys.readouterr().err
    )


def test_the_report_has_both_ends_and_every_batch(record):
    report = comparing.report(record, faster_memory(record))
    assert [t.caption.split(". ")[0] for t in report] == [
        "(8, 8, 65536, 64)", "(1, 8, 65536, 64)", "(8, 8, 512, 64)", "(1, 8, 512, 64)",
    ]  # fmt: skip
    assert "shape" not in report[0].columns
    assert "differ" not in report[0].caption
    newer = {"commit": "f00", "torch": "2.12.0", "driver": "600"}
    later = replace(record, provenance=replace(record.provenance, **newer))
    told = comparing.table(record, faster_memory(later)).caption
    assert told.endswith("The two differ in more than the GPU: commit, torch, driver.")
    assert "does nothing" not in told, "records of before do not say"
    zero = [replace(r, provenance=replace(r.provenance, null_kernel_ms=ms))
            for r, ms in ((record, 0.0048), (faster_memory(record), 0.00651))]  # fmt: skip
    said = " For a kernel that does nothing the clocks show 4.8 and 6.51 µs."
    assert comparing.table(*zero).caption.endswith(said)
    assert comparing.regressions(*zero, 5)[0].caption.endswith(said)
    assert report._repr_html_().index("<details>") < report._repr_html_().index("(1, 8, 65536")
    bound = {row[0]: row[-1] for row in report[0].rows}
    assert bound["This book (Triton)"] == "memory"
    assert bound["SDPA cuDNN"] == "not memory"


def test_graphs_beside_calls(record, make_measurement):
    shape = Shape(1, 8, 512)
    times = {"p20_ms": 0.010, "median_ms": 0.011, "p80_ms": 0.0111}
    graph = make_measurement("book", shape, FORWARD, experiment="graph", **times)
    both = replace(record, measurements=[*record.measurements, graph])
    (row,) = tables.graphs(both, B=1).rows
    assert row[0] == "512"
    assert row[1] == "0.04 / 0.011", "the host needs 0.04 ms to issue the call"
    assert row[2].endswith("/ –")
    assert tables.graphs(record, B=1).rows == []


def slower(record: Record, factor: float, spread: float = 1.0) -> Record:
    """The same with the book's times longer by a factor, and less steady by another."""

    def change(m):
        if not m.ok or m.contender != "book":
            return m
        low, high = m.p20_ms * factor / spread, m.p80_ms * factor * spread
        return replace(m, median_ms=m.median_ms * factor, p20_ms=low, p80_ms=high)

    return replace(record, measurements=[*map(change, record.measurements)])


@pytest.mark.parametrize(
    ("factor", "spread", "verdict"),
    [
        (1.0, 1.0, {""}),
        (1.04, 1.0, {""}),
        (1.5, 1.0, {"slower"}),
        (1.5, 2.0, {""}),  # the samples overlap
        (0.5, 1.0, {"faster"}),
    ],
)
def test_a_regression_is_beyond_the_threshold_and_the_spread(record, factor, spread, verdict):
    rows = comparing.changes(record, slower(record, factor, spread), 5)
    assert {r["verdict"] for r in rows if r["contender"] == "book"} == verdict
    assert {r["verdict"] for r in rows if r["contender"] != "book"} == {""}


def test_what_is_no_longer_right_is_a_regression(record, tmp_path, capsys):
    ok = [m for m in record.measurements if m.ok]
    wrong = replace(
        ok[0], status="wrong", reason="off by 2", median_ms=None, p20_ms=None, p80_ms=None
    )
    head = replace(record, measurements=[wrong, *ok[2:]])
    verdicts = [r["verdict"] for r in comparing.changes(record, head, 5) if r["verdict"]]
    assert verdicts == ["no longer right: off by 2", "no longer right: not measured"]
    one = str(results.write(record, tmp_path / "one.json"))
    two = str(results.write(head, tmp_path / "two.json"))
    assert cli.main(["compare", one, one, "--regressions", "5"]) == 0
    assert "0 of 88 cases" in capsys.readouterr().out
    assert cli.main(["compare", one, two, "--regressions", "5", "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)) == 88
    assert cli.main(["compare", one, two, "--regressions", "5", "--markdown"]) == 1
    told = capsys.readouterr().out
    assert f"| {contenders.label('book')} |" in told
    assert "2 of 88 cases" in told and "| base [ms] | head [ms] | change |" in told
