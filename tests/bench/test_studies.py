"""Studies are recorded and read back, and a damaged or missing one ends in one sentence."""

import dataclasses
import warnings

import pytest

from bench import contenders, studies
from bench.cli import main
from bench.errors import BenchError
from bench.hardware import Provenance

GPU = Provenance(
    gpu="NVIDIA Test", slug="nvidia-test", date="2026-01-01T00:00:00Z", command="", python="3.12",
    torch="2.11", capability="9.0",
)  # fmt: skip
ROWS = [{"n": 1, "median_ms": 0.123456789, "note": None}, {"n": 2, "median_ms": 0.5, "note": "a"}]


@pytest.fixture
def example(monkeypatch):
    """A study that is known under the name `example`."""

    class module:
        ABOUT = "numbers for a test"

        @staticmethod
        def measure(quick, say):
            say("measuring")
            return ROWS if not quick else ROWS[:1]

    monkeypatch.setattr(studies.hardware, "has_gpu", lambda: False)
    monkeypatch.setattr(studies, "names", lambda: ["example"])
    monkeypatch.setattr(studies, "import_module", lambda name: module)
    return studies.Study("example", GPU, ROWS)


def test_what_is_written_is_read_back(example, tmp_path):
    path = studies.write(dataclasses.replace(example, live=True), tmp_path)
    assert path == tmp_path / "nvidia-test" / "example.json"
    back = studies.recorded("example", tmp_path)[0]
    assert not back.live
    assert back.rows == [ROWS[0] | {"median_ms": 0.12346}, ROWS[1]]
    assert back.column("n") == [1, 2]
    assert back.one(n=2)["note"] == "a"
    assert studies.study("example", tmp_path) == back
    assert main(["check", str(path)]) == 0


def test_times_that_count_a_part_of_the_host_are_not_shown(example, tmp_path):
    fact = {"status": "ok", "reason": None, "median_ms": 23.0, "host_ms": 43.0}
    rows = [{"n": 1} | fact, {"n": 2, "host_included": True} | fact]
    rows += [{"n": 3} | fact | {"host_ms": 19.0}, {"n": 4} | fact | {"host_ms": 22.0}]
    studies.write(dataclasses.replace(example, rows=rows), tmp_path)
    (shown,) = studies.recorded("example", tmp_path)
    assert shown.column("median_ms") == [None, 23.0, 23.0, 23.0]
    assert shown.column("status") == ["void", "ok", "ok", "ok"]
    assert studies.read(tmp_path / "nvidia-test" / "example.json").rows == rows


def test_a_row_that_is_not_there_is_said(example):
    with pytest.raises(BenchError, match="0 rows with {'n': 3}"):
        example.one(n=3)


def test_without_gpu_and_record_it_says_what_to_type(example, tmp_path):
    with pytest.raises(BenchError, match="python -m bench study example"):
        studies.study("example", tmp_path)


def test_a_page_without_a_study_says_so_and_finds_nothing(example, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(studies.hardware, "has_gpu", lambda: False)
    monkeypatch.setattr(studies, "DIRECTORY", tmp_path)
    none = studies.study_or_nothing("example")
    assert "python -m bench study example" in capsys.readouterr().out
    assert not none.select(n=1) and not none.live
    studies.write(studies.Study("example", GPU, ROWS), tmp_path)
    assert studies.study_or_nothing("example").select(n=1) == studies.study("example").select(n=1)


def test_the_newer_architecture_comes_first(example, tmp_path):
    old = dataclasses.replace(GPU, slug="nvidia-old", capability="7.5")
    studies.write(dataclasses.replace(example, provenance=old), tmp_path)
    studies.write(example, tmp_path)
    slugs = [s.provenance.slug for s in studies.recorded("example", tmp_path)]
    assert slugs == ["nvidia-test", "nvidia-old"]
    book = dataclasses.replace(GPU, slug=studies.results.MAIN, gpu="NVIDIA H100 80GB HBM3")
    first = dataclasses.replace(example, provenance=book)
    newer = dataclasses.replace(GPU, slug="nvidia-newer", capability="12.0", gpu="NVIDIA Newer")
    for study in (first, dataclasses.replace(example, provenance=newer)):
        studies.write(study, tmp_path)
    slugs = [s.provenance.slug for s in studies.recorded("example", tmp_path)]
    assert slugs == [studies.results.MAIN, "nvidia-newer", "nvidia-test", "nvidia-old"]
    live = dataclasses.replace(first, live=True)
    shown = studies.beside(live, tmp_path)
    assert shown[0] is live
    assert "NVIDIA H100 80GB HBM3" not in [s.provenance.gpu for s in shown[1:]]
    assert len({s.provenance.gpu for s in shown}) == len(shown) - 1, "two files of one made-up GPU"


def test_a_part_that_lacks_a_row_is_taken_whole_from_the_record(example, tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "DIRECTORY", tmp_path)
    rows = [{"part": part, "n": n, "at": "record"} for part in ("step", "bits") for n in (1, 2)]
    studies.write(dataclasses.replace(example, rows=rows), tmp_path)
    mine = [r | {"at": "here"} for r in rows[:3]]
    here = dataclasses.replace(example, rows=mine, live=True)
    last = [{"part": "step", "n": 2}, {"part": "bits", "n": 2}]
    found = studies.completed(here, *last)
    assert found.column("at") == ["here", "here", "record", "record"]
    assert found.live and found.line.startswith("live on NVIDIA Test, 2026-01-01")
    assert found.line.endswith("; bits recorded 2026-01-01")
    # nothing is missing; nobody has it; it is a record itself; it is of another GPU
    assert studies.completed(here, last[0]) is here
    assert studies.completed(here, {"part": "bits", "n": 3}) is here
    record = dataclasses.replace(here, live=False)
    assert studies.completed(record, *last) is record
    alone = dataclasses.replace(here, rows=[mine[2]])  # of which nothing would be left
    found = studies.completed(alone, *last)
    assert not found.live and found.column("at") == ["record"] * 4
    other = dataclasses.replace(here, provenance=dataclasses.replace(GPU, gpu="NVIDIA Other"))
    assert studies.completed(other, *last) is other


def test_a_comparison_that_lacks_a_row_is_read_from_one_record(example, tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "DIRECTORY", tmp_path)
    rows = [{"part": "step", "n": n, "status": "ok"} for n in (1, 2, 3)]
    book = dataclasses.replace(GPU, slug=studies.results.MAIN, gpu="NVIDIA H100 80GB HBM3")
    studies.write(dataclasses.replace(example, provenance=book, rows=rows), tmp_path)
    studies.write(dataclasses.replace(example, rows=rows[:2]), tmp_path)  # NVIDIA Test
    skipped = [rows[0], rows[1] | {"status": "skipped"}]
    here = dataclasses.replace(example, rows=skipped, live=True)

    def shown(*ns, study=here):
        found = studies.having(study, *({"n": n, "status": "ok"} for n in ns))
        return found.provenance.gpu, found.live

    assert shown(1) == ("NVIDIA Test", True), "what was measured here comes first"
    assert shown(1, 2) == ("NVIDIA Test", False), "then the record of the same GPU"
    assert shown(1, 2, 3) == ("NVIDIA H100 80GB HBM3", False), "then another GPU's, by its name"
    assert studies.having(here, {"n": 4}) is here, "nobody has it"
    record = dataclasses.replace(here, live=False)
    assert studies.having(record, {"n": 3}) is record, "what a record lacks is not covered up"


def test_measured_where_there_is_a_gpu(example, tmp_path, monkeypatch):
    monkeypatch.setattr(studies.hardware, "has_gpu", lambda: True)
    monkeypatch.setattr(studies.hardware, "provenance", lambda *a: GPU)
    here = studies.study("example", tmp_path)
    assert here.live and here.rows == ROWS[:1]
    assert main(["study", "--out", str(tmp_path)]) == 0
    assert studies.recorded("example", tmp_path)[0].column("n") == [1, 2]


def test_with_fewer_gpus_than_a_study_asks_for_a_page_shows_the_record(
    example, tmp_path, monkeypatch
):
    module = studies.import_module("example")
    monkeypatch.setattr(module, "GPUS", 2, raising=False)
    monkeypatch.setattr(studies.hardware, "has_gpu", lambda: True)
    monkeypatch.setattr(studies.hardware, "provenance", lambda *a: GPU)
    here = [1]
    monkeypatch.setattr("torch.cuda.device_count", lambda: here[0])
    with pytest.raises(BenchError, match="fewer GPUs here than this study asks for"):
        studies.study("example", tmp_path)
    studies.write(example, tmp_path)
    assert not studies.study("example", tmp_path).live
    here[0] = 2
    assert studies.study("example", tmp_path).live


def test_the_chapters_of_a_build_measure_a_study_once(example, tmp_path, monkeypatch):
    monkeypatch.setenv(studies.SHARED, str(tmp_path / "build" / "live.json"))
    monkeypatch.setattr(studies.hardware, "has_gpu", lambda: True)
    monkeypatch.setattr(studies.hardware, "provenance", lambda *a: GPU)
    measured = []
    run = studies.run
    monkeypatch.setattr(studies, "run", lambda *a, **k: measured.append(a) or run(*a, **k))
    first, second = (studies.study("example", tmp_path) for _ in range(2))
    assert len(measured) == 1 and first.live and second.live
    assert second.rows == [ROWS[0] | {"median_ms": 0.12346}] and second.line == first.line
    assert not studies.recorded("example", tmp_path), "a build leaves no record"


def test_what_pytorch_says_of_its_own_threads_does_not_reach_a_page(example, monkeypatch):
    monkeypatch.setattr(studies.hardware, "has_gpu", lambda: True)
    monkeypatch.setattr(studies.hardware, "provenance", lambda *a: GPU)

    def measure(quick, say):
        warnings.warn(
            "Attempting to run cuBLAS, but there was no current CUDA context!", stacklevel=1
        )
        warnings.warn("something else", stacklevel=1)
        return ROWS

    monkeypatch.setattr(studies.import_module("example"), "measure", measure)
    with pytest.warns(UserWarning) as said:
        studies.run("example", say=lambda text: None)
    assert [str(w.message) for w in said] == ["something else"]


def test_a_row_that_no_file_can_hold_is_void_and_the_others_are_kept(example, monkeypatch):
    monkeypatch.setattr(studies.hardware, "has_gpu", lambda: True)
    monkeypatch.setattr(studies.hardware, "provenance", lambda *a: GPU)
    nan, inf = float("nan"), float("inf")
    bad = {"n": 3, "status": "ok", "error": nan, "spread": inf, "median_ms": 1.0}
    module = studies.import_module("example")
    monkeypatch.setattr(module, "measure", lambda quick, say: [*ROWS, bad])
    said = []
    study = studies.run("example", say=said.append)
    assert study.rows[:2] == ROWS and len(said) == 1
    assert study.one(n=3) == bad | {
        "error": None, "spread": None, "status": "void", "reason": "error is nan, spread is inf"
    }  # fmt: skip


@pytest.mark.parametrize("problem", [BenchError("nothing was raced"), RuntimeError("out of order")])
def test_a_study_that_fails_leaves_the_others(problem, example, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(studies.hardware, "has_gpu", lambda: True)
    monkeypatch.setattr(studies.hardware, "provenance", lambda *a: GPU)
    monkeypatch.setattr(studies, "names", lambda: ["bad", "example"])

    class bad:
        ABOUT = "nothing"

        @staticmethod
        def measure(quick, say):
            raise problem

    good = studies.import_module("example")
    monkeypatch.setattr(studies, "import_module", lambda name: bad if "bad" in name else good)
    assert main(["study", "bad", "example", "--out", str(tmp_path)]) == 1
    assert f"{problem}" in capsys.readouterr().err
    assert len(studies.recorded("example", tmp_path)) == 1


RACED = {"status": "ok", "median_ms": 1.0}
RIVALS = [
    {"contender": "fla-chunk", **RACED},
    {"against": "fla-chunk", "against_ms": 1.0, "value": 2.0},  # limits has no status
    {"way": "simple-gla", **RACED},
]


@pytest.mark.parametrize("row", RIVALS, ids=lambda row: next(iter(row)))
@pytest.mark.parametrize("case", ["gone", "there", "never raced", "another GPU"])
def test_a_record_with_rivals_is_not_replaced_by_one_without(
    case, row, example, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(studies.hardware, "has_gpu", lambda: True)
    monkeypatch.setattr(studies.hardware, "provenance", lambda *a: GPU)
    name = "NVIDIA other" if case == "another GPU" else GPU.gpu
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: name)
    gone = None if case == "there" else "there is no package `fla` here"
    for rival in ("fla-chunk", "fla-simple-gla"):
        absent = dataclasses.replace(contenders.get(rival), available=lambda: gone)
        monkeypatch.setitem(contenders._registry, rival, absent)
    before = [row | {"status": "not_installed"} if case == "never raced" else row]
    path = studies.write(dataclasses.replace(example, rows=before), tmp_path)
    assert main(["study", "example", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().err
    kept = case == "gone"
    assert (studies.read(path).rows == before) == kept
    assert ("kept as recorded" in said and "no package `fla`" in said) == kept


@pytest.mark.parametrize("gpus", [1, 2])
def test_a_study_for_several_gpus_is_left_out_where_there_is_one(gpus, monkeypatch, capsys):
    monkeypatch.setattr(studies.hardware, "has_gpu", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    ran = []

    def run(name, *more):
        ran.append(name)
        raise BenchError("not here")

    monkeypatch.setattr(studies, "run", run)
    monkeypatch.setattr(studies, "rivals_gone", lambda *_: "")
    assert main(["study"]) == 1
    several = {"sequence-parallel"} if gpus == 1 else set()
    assert set(studies.names()) - set(ran) == several
    assert ("left out" in capsys.readouterr().err) == bool(several)
    ran.clear()
    main(["study", "sequence-parallel"])
    assert ran == ["sequence-parallel"]


def test_a_failing_study_shows_the_record_and_says_so(example, tmp_path, monkeypatch, capsys):
    studies.write(example, tmp_path)
    monkeypatch.setattr(studies.hardware, "has_gpu", lambda: True)

    def fail(*a, **k):
        raise RuntimeError("out of order")

    monkeypatch.setattr(studies, "run", fail)
    assert not studies.study("example", tmp_path).live
    assert "out of order" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        ('{"schema_version": 7, "study": "example"}', "schema_version 7"),
        ('{"schema_version": 1, "study": "example", "rows": []}', "does not fit the schema"),
    ],
)
def test_a_damaged_file_is_refused_in_one_sentence(text, says, tmp_path, capsys):
    path = tmp_path / "example.json"
    path.write_text(text)
    assert main(["check", str(path)]) == 2
    assert says in capsys.readouterr().err


def test_rows_without_numbers_are_refused():
    with pytest.raises(ValueError, match="without rows"):
        studies.Study("example", GPU, [])
    with pytest.raises(ValueError, match="finite"):
        studies.Study("example", GPU, [{"x": float("nan")}])


def test_an_unknown_study_is_refused(capsys):
    assert main(["study", "nonsense"]) == 2
    assert "no study 'nonsense'" in capsys.readouterr().err
