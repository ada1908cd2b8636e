"""Records: written whole or not at all, read only if they fit the schema, found by GPU."""

import inspect
import json
import re
from dataclasses import replace

import pytest

from bench import results, studies
from bench.errors import BenchError
from bench.roofline import FORWARD, Shape
from bench.runner import LENGTHS


def test_round_trip(record, tmp_path):
    path = results.write(record, tmp_path / "new" / "made-up-gpu-1.json")
    again = results.read(path)
    assert again.provenance == record.provenance
    assert len(again.measurements) == len(record.measurements)
    assert again.measurements[0].median_ms == pytest.approx(
        record.measurements[0].median_ms, rel=1e-4
    )
    assert again.complete
    assert list(path.parent.iterdir()) == [path]


def test_a_full_record_is_small(make_record):
    full = make_record(lengths=LENGTHS)
    assert len(full.measurements) == 256
    assert len(full.to_json()) < 200_000


def test_one_measurement_a_line(record):
    lines = [x for x in record.to_json().splitlines() if '"contender"' in x]
    assert len(lines) == len(record.measurements)


def test_a_failed_write_leaves_the_old_file(record, tmp_path, monkeypatch):
    path = results.write(record, tmp_path / "gpu.json")
    before = path.read_text()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(results.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        results.write(record, path)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_live_is_not_stored(record, tmp_path):
    live = replace(record, live=True)
    assert live.line.startswith("live on Made-up GPU 1, 2026-01-02, torch 2.11.0")
    again = results.read(results.write(live, tmp_path / "gpu.json"))
    assert again.line.startswith("recorded on Made-up GPU 1")
    data = json.loads(live.to_json()) | {"live": True}
    assert not results.parse(json.dumps(data), "x").live


def damage(record, change):
    data = json.loads(record.to_json())
    change(data)
    return json.dumps(data)


def refuse(data, **facts):
    fields = {"status": "wrong", "reason": "x", "median_ms": None, "p20_ms": None, "p80_ms": None}
    data["measurements"][3].update(fields | facts)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.pop("schema_version"), "schema_version None"),
        (lambda d: d.update(schema_version=99), "schema_version 99"),
        (lambda d: d.pop("provenance"), "provenance: Field required"),
        (lambda d: d["provenance"].pop("gpu"), "provenance.gpu"),
        (lambda d: d["provenance"].update(nonsense=1), "nonsense"),
        (lambda d: d["measurements"][3].update(median_ms=float("nan")), "measurements.3"),
        (lambda d: d["measurements"][3].update(median_ms=-1), "measurements.3"),
        (lambda d: d["measurements"][3].update(median_ms="fast"), "measurements.3.median_ms"),
        (lambda d: d["measurements"][3].update(status="great"), "measurements.3.status"),
        (lambda d: d["measurements"][3].update(B=0), "B is 0"),
        (lambda d: d["measurements"][3].pop("floor_ms"), "is missing"),
        (lambda d: d["measurements"][3].update(floor_ms=0.0), "floor_ms is not above 0"),
        (lambda d: d["measurements"][3].update(bytes=0), "bytes is not above 0"),
        (lambda d: d["measurements"][3].update(flops=0), "flops is not above 0"),
        (lambda d: d["measurements"][3].update(bytes=-5), "bytes is -5"),
        (lambda d: d["measurements"].append(d["measurements"][3]), "2 measurements of one case"),
        (lambda d: d.update(measurements=[], complete=False), "holds no measurement"),
        (lambda d: d["provenance"].update(slug="../../evil"), "slug is '../../evil'"),
        (lambda d: d["provenance"].update(slug=""), "slug is ''"),
        (lambda d: d["provenance"].update(date="yesterday"), "date is 'yesterday'"),
        (lambda d: d["provenance"].update(date="2026-13-01T00:00:00Z"), "date is '2026-13"),
        (lambda d: d["measurements"][3].pop("verified"), "is missing"),
        (lambda d: d["measurements"][3].update(p20_ms=1e9), "not in order"),
        (lambda d: d["measurements"][3].update(status="wrong"), "there is no reason"),
        (lambda d: d["measurements"][3].update(status="wrong", reason="x"), "there is a time"),
        (lambda d: refuse(d, unsteady=True), "called unsteady"),
        (lambda d: d["measurements"][3].update(unsteady="very"), "measurements.3.unsteady"),
        (lambda d: d.update(measurements={}), "measurements"),
    ],
)
def test_damaged_records_are_refused_in_one_sentence(record, change, says):
    with pytest.raises(BenchError) as problem:
        results.parse(damage(record, change), "made-up.json")
    text = str(problem.value)
    assert text.startswith("made-up.json ")
    assert says in text
    assert "\n" not in text
    assert len(text) < 300


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"schema_version": 1}'])
def test_what_is_no_record_is_refused(text):
    with pytest.raises(BenchError, match=r"^made-up\.json "):
        results.parse(text, "made-up.json")


def test_binary_and_absent_files(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BenchError, match="cannot be read"):
        results.read(tmp_path / "a.json")
    with pytest.raises(BenchError, match="There is no results file"):
        results.read(tmp_path / "b.json")


def test_records_are_found_by_gpu(make_record, tmp_path):
    small = make_record(lengths=(512,), gpu="Small", slug="small", date="2026-12-31T00:00:00Z")
    large = make_record(gpu="Large", slug="large")
    newer = make_record(gpu="Newer", slug="newer", date="2026-05-05T00:00:00Z")
    for r in (small, large, newer):
        results.write(r, tmp_path / f"{r.provenance.slug}.json")
    (tmp_path / "large.partial.json").write_text("{")
    assert results.available(tmp_path) == ["large", "newer", "small"]
    assert results.load("small", tmp_path).provenance.gpu == "Small"
    assert results.best_recorded(tmp_path).provenance.slug == "newer"
    results.write(make_record(lengths=(512,), slug=results.MAIN), tmp_path / f"{results.MAIN}.json")
    assert results.best_recorded(tmp_path).provenance.slug == results.MAIN, "the book speaks of it"
    (tmp_path / f"{results.MAIN}.json").unlink()
    with pytest.raises(BenchError, match="no record of 'h900'.*large, newer, small"):
        results.load("h900", tmp_path)


def test_no_records(tmp_path):
    assert results.available(tmp_path / "absent") == []
    with pytest.raises(BenchError, match="python -m bench run"):
        results.best_recorded(tmp_path)


def test_selection(record):
    assert record.values("N") == [512, 4096, 65536]
    assert record.contenders() == ["book", "eager", "sdpa-flash", "sdpa-cudnn"]
    assert record.one(contender="book", B=8, N=512).B == 8
    assert record.one(contender="nobody") is None
    assert len(record.frame()) == len(record.measurements)


def test_share_of_floor_and_host_bound(make_measurement):
    m = make_measurement("book", Shape(1, 8, 512), FORWARD, host_ms=1.0)
    assert m.share_of_floor == pytest.approx(1 / 1.5)
    assert m.host_bound
    assert not make_measurement("book", Shape(8, 8, 65536), FORWARD).host_bound


def test_unsteady_is_kept_and_absent_where_it_is_not_so(make_measurement, record, tmp_path):
    steady = make_measurement("book", Shape(8, 8, 512), FORWARD)
    unsteady = replace(steady, N=1024, p80_ms=2 * steady.p20_ms, unsteady=True)
    assert unsteady.spread == pytest.approx(2)
    whole = results.Record(record.provenance, [steady, unsteady])
    assert whole.to_json().count("unsteady") == 1
    again = results.read(results.write(whole, tmp_path / "gpu.json"))
    assert [m.unsteady for m in again.measurements] == [None, True]


def test_every_file_in_results_is_valid_and_named_by_its_gpu():
    for slug in results.available():
        record = results.load(slug)
        path = results.DIRECTORY / f"{slug}.json"
        assert record.provenance.slug == slug
        assert record.provenance.gpu not in ("none", "")
        assert record.complete, f"{path} is of an interrupted run"
        assert record.provenance.commit, f"{path} does not say which commit it measured"
        assert path.stat().st_size < 300_000


# ------------------------------------------------------------------------------ studies


@pytest.mark.parametrize("name", studies.names())
def test_each_study_declares_its_columns_and_its_record_has_them(name):
    module = studies._module(name)
    kinds = module.COLUMNS if hasattr(module, "KIND") else {None: module.COLUMNS}
    assert all(isinstance(columns, str) and columns.split() for columns in kinds.values())
    for study in studies.recorded(name):
        assert studies.misfits(name, study.rows) == []


@pytest.mark.parametrize("name", studies.names())
def test_each_kind_of_row_that_a_study_writes_is_declared(name):
    module = studies._module(name)
    if not hasattr(module, "KIND"):
        return
    kinds = re.findall(
        rf'"{module.KIND}": "([a-z -]+)"(?!, "status": "failed")', inspect.getsource(module)
    )
    assert set(kinds) <= {"failed", *module.COLUMNS}, "a file with such a row is refused"


def samples(rows: list[dict], kind: str | None) -> dict:
    """The place of the first row of each kind and status."""
    found = {}
    for i, row in enumerate(rows):
        found.setdefault((row.get(kind), row.get("status"), row.get("reason") is None), i)
    return found


@pytest.mark.parametrize("name", [s for s in studies.names() if studies.recorded(s)])
def test_a_row_that_lost_a_column_is_refused(name):
    """Each declared column, of the first row of each kind and status."""
    rows, module = studies.recorded(name)[0].rows, studies._module(name)
    column = getattr(module, "KIND", None)
    for (kind, status, no_reason), i in samples(rows, column).items():
        columns = module.COLUMNS
        if column:
            columns = columns.get(f"{kind}, {status}", columns.get(kind, ""))
        always, _, further = columns.partition("|")
        good = status == "ok" or status is None and no_reason
        wanted = [column] if column else []
        wanted += [*always.split(), *(further.split() if good else ())]
        for lost in (word.removesuffix("?") for word in wanted):
            row = {k: v for k, v in rows[i].items() if k != lost}
            assert studies.misfits(name, [row]), f"{kind}, {status}: nobody misses {lost}"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"status": "oh"}, "status is 'oh'"),
        ({"kind": "peek"}, "kind is 'peek'; known: peak, fits"),
        ({"label": 7}, "label is 7; it has to be text"),
        ({"causal": "no"}, "causal is 'no'; it has to be true or false"),
        ({"N": True}, "N is True; it has to be a number"),
        ({"extra_bytes": "few"}, "extra_bytes is 'few'"),
        ({"extra_bytes": -5}, "extra_bytes is -5"),
        ({"extra_bytes": None}, "extra_bytes is missing"),
        ({"median_ms": -5.0}, "median_ms is -5.0"),
        ({"median_ms": 0.0}, "median_ms is 0.0"),
        ({"reason": 5}, "reason is 5"),
    ],
)
def test_a_damaged_row_of_a_study_is_refused_in_one_sentence(change, says, tmp_path):
    study = next(s for s in studies.recorded("memory"))
    at = next(i for i, r in enumerate(study.rows) if (r["kind"], r["status"]) == ("peak", "ok"))
    study.rows[at].update(change)
    path = studies.write(study, tmp_path)
    with pytest.raises(BenchError) as problem:
        studies.read(path)
    assert f"does not fit the study: rows.{at}: {says}" in str(problem.value)
    assert str(problem.value).count("\n") == 0


def test_failed_parts_and_rows_need_only_a_reason():
    gone = {"status": "failed", "reason": "out of memory"}
    assert studies.misfits("memory", [{"kind": "peak", "contender": "book"} | gone]) == []
    assert studies.misfits("memory", [{"kind": "peak", "contender": "book", "status": "failed"}])
    whole = {"part": "failed", "which": "counters", "reason": "left out"}
    assert studies.misfits("causal", [whole]) == []
    assert studies.misfits("decoding", [{"what": "caches"} | gone]) == []


@pytest.mark.parametrize("name", ["limits", "memory", "profile", "contenders"])
def test_what_passes_can_be_printed(name):
    """Damage of one row, each column in turn: it is refused, or the tables show it all the same."""
    from bench import reports

    study = studies.recorded(name)[0]
    make, passed, stopped = getattr(reports, name), 0, 0
    for i in samples(study.rows, "kind").values():
        for column in study.rows[i]:
            for damage in ({}, {column: None}, {column: "x"}, {column: -1}):
                row = {k: v for k, v in study.rows[i].items() if k != column} | damage
                if studies.misfits(name, [row]):
                    stopped += 1
                    continue
                near = [row, *study.rows[max(0, i - 5) : i + 5]]
                assert str(make(replace(study, rows=near)))
                passed += 1
    assert passed and stopped
