"""The table of limits: what decides a row, and what a row without a measurement says."""

from dataclasses import replace

import pytest

from bench import cli, first_call, hardware, limits, reports, results, studies
from bench.hardware import Provenance
from bench.limits import LIMITS
from bench.results import Measurement, Record
from bench.roofline import FORWARD, Shape, ideal_bytes

GPU = Provenance("Made-up GPU 1", "made-up-gpu-1", "2026-01-02T03:04:05Z", "x", "3.12", "2.11")
FIRST = [({**shape}, {"first_call_s": 1.5 + i}) for i, shape in enumerate(first_call.SHAPES)]
EXTRA = [{"extra_bytes": 1000}, {"extra_bytes": 2**29 // 100}]


def timed(contender, shape, work, ms, experiment="limits", floor_ms=1.0, **changes):
    fields = {
        "experiment": experiment,
        "contender": contender,
        "causal": shape.causal,
        "work": work,
        "B": shape.B,
        "H": shape.H,
        "N": shape.N,
        "D": shape.D,
        "Dv": shape.Dv,
        "dtype": shape.dtype,
        "status": "ok",
        "median_ms": ms,
        "p20_ms": ms,
        "p80_ms": ms,
        "samples": 9,
        "host_ms": 0.05,
        "bytes": ideal_bytes(shape, work),
        "flops": 1,
        "floor_ms": floor_ms,
        "error": 0.001,
        "verified": "o",
    }
    return Measurement(**(fields | changes))


def not_installed(contender, shape, work, experiment):
    gone = dict.fromkeys(("median_ms", "p20_ms", "p80_ms", "samples", "floor_ms", "error"))
    facts = {"status": "not_installed", "reason": "there is no package `fla` here"}
    return timed(contender, shape, work, 1.0, experiment, **gone, **facts)


def made_up(ours_ms=1.0, fla_ms=2.0, crossover=512, fla=True):
    """All that the limits ask for; SDPA is slower than the book from `crossover` tokens on."""
    rows = []
    for plan in limits.plans(quick=False):
        for shape in plan.shapes():
            for name in plan.contenders:
                if plan.experiment == limits.EAGER:
                    slow = shape.N >= crossover
                    ms = 1.0 if name == "book" else 2.0 if slow else 0.5
                else:
                    ms = ours_ms if name == "book" else fla_ms
                if name.startswith("fla") and not fla:
                    rows.append(not_installed(name, shape, plan.works[0], plan.experiment))
                else:
                    rows.append(timed(name, shape, plan.works[0], ms, plan.experiment))
    return Record(GPU, rows)


def decided(record=None, first=FIRST, extra=EXTRA):
    return limits.decide(record or made_up(), first, extra)


def of(rows, kind):
    return [r for r in rows if r["kind"] == kind]


def test_the_limits_are_those_asked_for():
    by_kind = {kind: [x for x in LIMITS if x.kind == kind] for kind in limits.UNITS}
    assert [len(v) for v in by_kind.values()] == [8, 3, 4, 1, 1]
    asked = {(x.size, x.shape.causal, x.work): (x.must, x.aim) for x in by_kind["floor"]}
    assert asked["(8, 8, 65536, 64)", False, "forward"] == (0.92, 0.97)
    assert asked["(8, 8, 65536, 64)", True, "forward+backward"] == (0.40, 0.65)
    assert asked["(4, 16, 16384, 128)", True, "forward"] == (0.55, 0.80)
    assert [(x.must, x.aim) for x in by_kind["others"]] == [(1.05, 1.4), (3, 4), (4, 8)]
    assert [(x.size, x.must, x.aim) for x in by_kind["crossover"]] == 2 * [
        ("(8, 8, N, 64)", 1024, 256),
        ("(1, 8, N, 64)", 2048, 1024),
    ]


def test_every_plan_has_the_book_and_what_it_is_compared_with():
    full = limits.plans(quick=False)
    assert all(p.contenders[0] == "book" for p in full)
    named = {name for p in full for name in p.contenders}
    assert {*limits.FLA_FASTEST, *limits.FLA_NORMALIZED, *limits.SDPA} <= named
    assert len(full) == 8 + 1 + 3
    assert all(p.contenders == ("book",) for p in full[:8]), "what needs no package comes first"
    assert all("fla" in p.contenders[1] for p in full[-3:])
    assert not any(n.startswith("fla") for p in limits.plans(quick=True) for n in p.contenders)
    assert [p.clock for p in full].count("eager") == 1
    for quick in (False, True):  # a crossover that lacks short lengths is still one
        (eager,) = (p for p in limits.plans(quick) if p.clock == "eager")
        assert [s.N for s in eager.shapes()] == sorted((s.N for s in eager.shapes()), reverse=True)


@pytest.mark.parametrize(
    ("kind", "value", "verdict"),
    [
        ("floor", 0.98, "aim"),
        ("floor", 0.97, "aim"),
        ("floor", 0.93, "must"),
        ("floor", 0.9199, "no"),
        ("floor", None, "–"),
        ("crossover", 256, "aim"),
        ("crossover", 1024, "must"),
        ("crossover", 2048, "no"),
        ("first", 2.0, "aim"),
        ("first", 4.1, "no"),
        ("memory", 0.5, "must"),
    ],
)
def test_verdicts(kind, value, verdict):
    assert next(x for x in LIMITS if x.kind == kind).met(value) == verdict


def test_ratios():
    rows = decided(made_up(ours_ms=1.25, fla_ms=2.5))
    assert [r["value"] for r in of(rows, "floor")] == [pytest.approx(0.8)] * 8
    assert [r["value"] for r in of(rows, "others")] == [pytest.approx(2.0)] * 3
    assert [r["met"] for r in of(rows, "others")] == ["aim", "no", "no"]
    assert of(rows, "first")[0]["value"] == max(r["first_call_s"] for _, r in FIRST)
    assert of(rows, "memory")[0]["value"] == pytest.approx(1.0, rel=1e-4)


def test_the_fastest_of_the_others_counts():
    record = made_up()
    faster = [
        replace(m, median_ms=1.5, p20_ms=1.5, p80_ms=1.5) if m.contender == "fla-fused-chunk" else m
        for m in record.measurements
    ]
    row = of(decided(replace(record, measurements=faster)), "others")[0]
    assert (row["against"], row["value"]) == ("fla-fused-chunk", pytest.approx(1.5))


def test_crossover_needs_every_longer_sequence_too():
    assert [r["value"] for r in of(decided(made_up(crossover=512)), "crossover")] == [512] * 4
    row = of(decided(made_up(crossover=9999)), "crossover")[0]
    assert (row["value"], row["met"]) == (None, "no") and "up to N = 4096" in row["reason"]
    record = made_up(crossover=64)
    again = [
        replace(m, median_ms=0.1, p20_ms=0.1, p80_ms=0.1)
        if (m.experiment, m.N, m.contender) == (limits.EAGER, 1024, "sdpa-cudnn")
        else m
        for m in record.measurements
    ]
    row = of(decided(replace(record, measurements=again)), "crossover")[0]
    assert row["value"] == 2048, "faster at 64 to 512, slower at 1024: that is no crossover"


def test_a_missing_package_and_a_wrong_result_are_said():
    rows = decided(made_up(fla=False))
    for row in of(rows, "others"):
        assert row["met"] == "–"
        assert "not installed" in row["reason"]
    record = made_up()
    gone = dict.fromkeys(("median_ms", "p20_ms", "p80_ms", "samples", "floor_ms"))
    wrong = [
        replace(m, status="wrong", reason="o is NaN", **gone) if m.contender == "book" else m
        for m in record.measurements
    ]
    rows = decided(replace(record, measurements=wrong))
    assert {r["met"] for r in of(rows, "floor") + of(rows, "crossover")} == {"–"}
    assert of(rows, "floor")[0]["reason"] == "wrong: o is NaN"


def test_unsteady_times_decide_nothing():
    record = made_up()
    shaky = [
        replace(m, p80_ms=2 * m.p20_ms, unsteady=True) if m.contender == "book" else m
        for m in record.measurements
    ]
    rows = decided(replace(record, measurements=shaky))
    assert {r["met"] for r in of(rows, "floor") + of(rows, "others")} == {"void"}


def test_failures_in_fresh_processes():
    rows = decided(first=[*FIRST, ({}, {"failed": "SIGSEGV"})], extra=[{"failed": "no memory"}])
    assert of(rows, "first")[0]["reason"] == "SIGSEGV"
    assert of(rows, "memory")[0]["reason"] == "no memory"


def test_the_table_and_the_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(hardware, "has_gpu", lambda: True)
    monkeypatch.setattr(hardware, "provenance", lambda *_: GPU)
    monkeypatch.setattr(limits, "measure", lambda quick, say: decided())
    assert cli.main(["limits", "--out", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert "bidirectional forward + backward" in told.out
    assert "(4, 16, 16384, 128)" in told.out
    assert "2 (fla chunk)" in told.out
    assert "512 tokens" in told.out
    assert "Made-up GPU 1" in told.out
    path = tmp_path / "made-up-gpu-1" / "limits.json"
    assert studies.read(path).rows[0]["met"] == "aim"
    assert cli.main(["limits", "--recorded", "made-up-gpu-1", "--out", str(tmp_path)]) == 0
    assert "recorded on Made-up GPU 1" in capsys.readouterr().out
    assert cli.main(["limits", "--recorded", "h900", "--out", str(tmp_path)]) == 2
    assert cli.main(["limits", "--json", "--out", str(tmp_path)]) == 0
    assert '"study": "limits"' in capsys.readouterr().out


def test_reports_say_why(monkeypatch):
    study = studies.Study("limits", GPU, decided(made_up(fla=False)))
    table, why = reports.limits(study)
    assert "not installed" in why
    assert len(table.rows) == len(LIMITS)


def test_recorded_limits_are_decided_as_they_say():
    for study in studies.recorded("limits"):
        assert len(study.rows) == len(LIMITS)
        for limit, row in zip(LIMITS, study.rows, strict=True):
            assert (row["work"], row["must"], row["aim"]) == (limit.what, limit.must, limit.aim)
            nowhere = row["kind"] == "crossover" and row["value"] is None
            assert row["met"] in (limit.met(row["value"]), "void", *["no"] * nowhere)


def test_each_limit_is_a_claim_of_its_own():
    good = limits.claims(studies.Study("limits", GPU, decided(made_up(0.5, 5.0), FIRST[:1])))
    assert len({c.anchor for c in good}) == len(good) == len(LIMITS)
    assert good[0].sentence.endswith("(8, 8, 65536, 64): at least 0.92 of copy speed")
    assert good[11].sentence.endswith("(8, 8, N, 64): at most 1,024 tokens")
    missed = [c for c, limit in zip(good, LIMITS, strict=True) if limit.missed]
    assert [c for c in good if c.surprising] == missed and len(missed) == 1
    assert {c.verdict for c in missed} == {"Held, against expectation"}


@pytest.mark.parametrize("i", [i for i, limit in enumerate(LIMITS) if not limit.missed])
def test_a_limit_that_is_no_longer_reached_is_a_surprise_by_itself(i):
    study = studies.recorded("limits")[0]
    assert study.provenance.slug == results.MAIN
    assert not [c.sentence for c in limits.claims(study) if c.surprising]
    rows = [r | {"met": "no"} if j == i else r for j, r in enumerate(study.rows)]
    (found,) = [c for c in limits.claims(replace(study, rows=rows)) if c.surprising]
    assert found.sentence.startswith(LIMITS[i].what) and found.held is False


def test_a_limit_without_a_measurement_is_not_decided():
    rows = decided(made_up(fla=False), extra=[{"failed": "no memory"}])
    undecided = [c for c in limits.claims(studies.Study("limits", GPU, rows)) if c.held is None]
    assert len(undecided) == 3 + 1
    assert all("not installed" in c.evidence for c in undecided[:3])
    assert "no memory" in undecided[3].evidence


def test_shapes():
    assert limits.LIMITS[0].shape == Shape(8, 8, 65536, 64, 64)
    assert limits.LIMITS[0].work == FORWARD
