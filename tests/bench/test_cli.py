"""Commands: what they print, their exit codes, and one clear sentence for bad input."""

import subprocess
import sys
from dataclasses import replace

import pytest

from bench import cli, hardware, readme, results, studies


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(hardware, "has_gpu", lambda: False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["run", "--seqlens", "8"], "'8' is not from 16 to"),
        (["run", "--seqlens", "lots"], "'lots' is not a whole number above 0"),
        (["run", "--seqlens", "-5"], "--seqlens"),
        (["run", "--batch", "0"], "'0' is not a whole number above 0"),
        (["run", "--head-dim", "512"], "'512' is not one number from 1 to 256"),
        (["run", "--heads", "4,8"], "'4,8' is not one number from 1 to"),
        (["compare", "a", "b", "--seqlen", "512,1024"], "'512,1024' is not one number from 16"),
        (["run", "--contenders", "book,nobody"], "no contender 'nobody'"),
        (["run", "--dtype", "int8"], "invalid choice: 'int8'"),
        (["run", "--causal", "--bidirectional"], "not allowed with"),
        (["run", "--contenders", "book"], "needs an NVIDIA GPU"),
        (["show", "h900"], "no record of 'h900'"),
        (["show", "absent.json"], "There is no results file absent.json."),
        (["check", "absent.json"], "There is no results file absent.json."),
        (["check"], "required: file"),
        (["compare", "h900", "h100"], "no record of 'h900'"),
        (["tune", "nothing"], "no kernel 'nothing' in kernels/configs.py; known: "),
        (["tune", "--head-dim", "7"], "no kernel for heads of 7"),
        (["tune"], "needs an NVIDIA GPU"),
        (["limits"], "needs an NVIDIA GPU"),
        (["memory"], "needs an NVIDIA GPU"),
        (["profile"], "needs an NVIDIA GPU"),
        (["limits", "--recorded", "h900"], f"known: {results.MAIN}"),
        (["memory", "--recorded", ""], "There is no memory of ''"),
        (["profile", "--recorded", "x", "--out", "/proc/nowhere"], "known: none"),
        (
            ["compare", results.MAIN, "nvidia-h200", "--seqlen", "5000"],
            "N = 5000 in both; known: 5",
        ),
        (["compare", "a", "b", "--regressions", "nan"], "'nan' is not a number of percent from 0"),
        (["compare", "a", "b", "--regressions", "-5"], "'-5' is not a number of percent from 0"),
        (["compare", "a", "b", "--regressions", "inf"], "'inf' is not a number of percent from 0"),
        (["figures", "--out", "/proc/nowhere"], "/proc/nowhere cannot be used: No such file"),
        (["figures", "h900"], "no record of 'h900'"),
        (["study", "nothing"], "no study 'nothing'"),
        (["study", "limits"], "needs an NVIDIA GPU"),
        (["readme", "--readme", "absent.md"], "absent.md cannot be read"),
    ],
)
def test_bad_input_gets_one_sentence_and_code_2(arguments, says, no_gpu, capsys):
    assert cli.main(arguments) == 2
    told = capsys.readouterr()
    assert says in told.err
    assert told.out == ""
    assert len(told.err.strip().splitlines()) == 1
    assert "Traceback" not in told.err


def test_an_interrupted_study_ends_in_a_sentence(monkeypatch, tmp_path, capsys):
    def stopped(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.hardware, "has_gpu", lambda: True)
    monkeypatch.setattr(studies, "run", stopped)
    assert cli.main(["study", "clinic", "--out", str(tmp_path)]) == 130
    told = capsys.readouterr().err
    assert told.splitlines()[-1].startswith("Interrupted")
    assert "what was under way is lost" in told and not list(tmp_path.iterdir())


def test_a_reader_that_has_seen_enough_ends_it_quietly():
    command = f"{sys.executable} -m bench show | head -n 1"
    run = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=hardware.ROOT)
    assert run.stdout.startswith("## B = ") and run.stderr == ""


def test_a_study_in_the_place_of_another(record, tmp_path, capsys):
    rows = [{"kind": "peak", "contender": "book", "status": "failed", "reason": "a test"}]
    wrong = studies.Study("memory", record.provenance, rows)
    place = tmp_path / record.provenance.slug / "limits.json"
    results.write(wrong, place)
    assert cli.main(["limits", "--recorded", record.provenance.slug, "--out", str(tmp_path)]) == 2
    assert "holds the study 'memory', not 'limits'" in capsys.readouterr().err
    assert cli.main(["show", str(place)]) == 2
    assert "holds a study" in capsys.readouterr().err
    assert cli.main(["check", str(place)]) == 0
    results.write(studies.Study("nonsense", record.provenance, rows), place)
    assert cli.main(["check", str(place)]) == 2
    assert "holds the study 'nonsense'; known: " in capsys.readouterr().err


COMMANDS = ["run", "study", "limits", "memory", "profile", "compare", "tune", "show", "check"]


@pytest.mark.parametrize("command", [*COMMANDS, "readme"])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as done:
        cli.main([command, "--help"])
    assert done.value.code == 0
    told = " ".join(capsys.readouterr().out.split())
    assert f"python -m bench {command}" in told
    quiet = command in ("compare", "show", "check")
    assert ("measures nothing, and needs no GPU" in told) == quiet


def test_help_and_error_list_the_same_contenders(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    told = capsys.readouterr().out
    assert cli.main(["run", "--contenders", "nobody"]) == 2
    listed = capsys.readouterr().err.split("there are ")[1].strip().rstrip(".")
    assert "step-split" in listed
    assert listed in told


def test_the_plan_that_arguments_ask_for():
    def plans(*arguments):
        return cli._plans(cli.parser().parse_args(["run", *arguments]))

    def plan(*arguments):
        (one,) = plans(*arguments)
        return one

    full, steps, graphs = plans()
    assert (graphs.experiment, graphs.clock, graphs.works) == ("graph", "graph", ("forward",))
    assert max(graphs.lengths) == 4096
    assert (full.experiment, steps.experiment) == ("comparison", "steps")
    assert steps.contenders[:2] == ("book", "step-two-passes")
    assert (steps.orders, steps.works) == ((False,), ("forward",))
    assert full.batches == (8, 1)
    assert full.lengths == (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
    assert full.contenders == ("book", "eager", "sdpa-flash", "sdpa-cudnn")
    assert full.orders == (False, True)
    assert full.works == ("forward", "forward+backward")
    assert [len(p.lengths) for p in plans("--quick")] == [4, 4, 4]
    assert plan("--contenders", "step-split").contenders == ("step-split",)
    some = plan("--seqlens", "4096,1024", "2048", "--batch", "2", "--causal", "--heads", "4")
    assert some.lengths == (1024, 2048, 4096)
    assert (some.batches, some.orders, some.heads) == ((2,), (True,), 4)
    assert plan("--bidirectional", "--work", "forward").works == ("forward",)
    assert plan("--contenders", "eager,book", "eager").contenders == ("eager", "book")


def test_show_and_check(record, tmp_path, capsys):
    path = str(results.write(record, tmp_path / "gpu.json"))
    assert cli.main(["check", path]) == 0
    told = capsys.readouterr().out
    assert "schema 1, Made-up GPU 1, 96 measurements, 88 verified and timed, complete" in told
    assert cli.main(["show", path]) == 0
    told = capsys.readouterr().out
    assert "## B = 8, causal, forward + backward" in told
    assert "recorded on Made-up GPU 1" in told
    assert "out of <memory>" in told
    assert cli.main(["show", path, "--markdown"]) == 0
    assert "| 64K |" in capsys.readouterr().out
    assert cli.main(["show", path, "--json"]) == 0
    assert results.parse(capsys.readouterr().out, "stdout").provenance == record.provenance


def run_as(monkeypatch, tmp_path, record, *more, interrupt=False, out="gpu.json"):
    """`python -m bench run` with a run that takes no time and needs no GPU."""
    from bench import isolated

    def run(*plans, partial, say, before, **_):
        say("[1/1] working" if before is None else f"goes on from {len(before.measurements)}")
        results.write(replace(record, complete=False), partial)
        if interrupt:
            raise KeyboardInterrupt
        return record

    monkeypatch.setattr(isolated, "run", run)
    monkeypatch.setattr(hardware, "has_gpu", lambda: True)
    monkeypatch.setattr(hardware, "provenance", lambda *_: record.provenance)
    monkeypatch.setattr(results, "DIRECTORY", tmp_path)
    place = ["--out", str(tmp_path / out)] if out else []
    return cli.main(["run", "--dtype", "bfloat16", *place, *more])


def test_run_writes_the_record_of_this_gpu(record, tmp_path, monkeypatch, capsys):
    assert run_as(monkeypatch, tmp_path, record, out="") == 0
    assert [p.name for p in tmp_path.iterdir()] == ["made-up-gpu-1.json"]
    told = capsys.readouterr()
    assert "88 of 96 verified and timed" in told.err and "unsteady" not in told.err
    assert told.out == ""
    at = next(i for i, m in enumerate(record.measurements) if m.ok)
    record.measurements[at] = replace(record.measurements[at], unsteady=True)
    assert run_as(monkeypatch, tmp_path, record) == 0
    assert "1 unsteady: a comparison with those is void" in capsys.readouterr().err


def test_interrupted_run_keeps_what_it_has_and_the_old_record(
    record, tmp_path, monkeypatch, capsys
):
    (tmp_path / "gpu.json").write_text("old")
    assert run_as(monkeypatch, tmp_path, record, interrupt=True) == 130
    assert (tmp_path / "gpu.json").read_text() == "old"
    assert not results.read(tmp_path / "gpu.partial.json").complete
    assert "gpu.partial.json" in capsys.readouterr().err


def test_an_interrupted_run_is_resumed_only_on_the_same_gpu_and_commit(
    record, make_record, tmp_path, monkeypatch, capsys
):
    assert run_as(monkeypatch, tmp_path, record, "--resume") == 0
    assert "[1/1] working" in capsys.readouterr().err, "nothing to go on from is no mistake"
    run_as(monkeypatch, tmp_path, record, interrupt=True)
    assert run_as(monkeypatch, tmp_path, record, "--resume") == 0
    assert "goes on from 96" in capsys.readouterr().err
    assert not (tmp_path / "gpu.partial.json").exists()
    run_as(monkeypatch, tmp_path, record, interrupt=True)
    assert run_as(monkeypatch, tmp_path, make_record(commit="fedcba"), "--resume") == 2
    assert "measured with commit 0123456789abcdef, and here it is fedcba" in capsys.readouterr().err
    (tmp_path / "gpu.partial.json").write_text('{"schema_version": 1}')
    assert run_as(monkeypatch, tmp_path, record, "--resume") == 2
    assert "is not a record to go on from" in capsys.readouterr().err


def test_a_plug_in_that_cannot_be_loaded(no_gpu, tmp_path, capsys):
    (tmp_path / "broken.py").write_text("1 / 0")
    assert cli.main(["run", "--plugin", str(tmp_path / "broken.py")]) == 2
    assert "broken.py cannot be loaded: division by zero" in capsys.readouterr().err
    assert cli.main(["run", "--plugin", str(tmp_path / "absent.py")]) == 2
    (tmp_path / "ends.py").write_text("import sys; sys.exit(3)")
    assert cli.main(["run", "--plugin", str(tmp_path / "ends.py")]) == 2
    assert "ends.py cannot be loaded: it ends the program, with 3" in capsys.readouterr().err


def test_run_refuses_an_out_that_is_no_json_file(record, tmp_path, monkeypatch, capsys):
    assert run_as(monkeypatch, tmp_path, record, out="gpu.txt") == 2
    assert "--out has to name a .json file" in capsys.readouterr().err


def test_command_line_is_kept_without_its_output_file(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "run", "--quick", "--out", "/some/where.json"])
    assert hardware.command_line() == "python -m bench run --quick"
    monkeypatch.setattr(sys, "argv", ["x", "run", "--out=/some/where.json", "--causal"])
    assert hardware.command_line() == "python -m bench run --causal"
    monkeypatch.setattr(sys, "argv", ["x", "run", "--resume", "--quick", "--json"])
    assert hardware.command_line() == "python -m bench run --quick"


def test_readme_is_redrawn_between_its_markers(record, tmp_path, capsys):
    path = results.write(record, tmp_path / "gpu.json")
    file = tmp_path / "README.md"
    file.write_text(f"# Title\n\n{readme.BEGIN}\nold\n{readme.END}\n\nRest.\n")
    assert cli.main(["readme", "--record", str(path), "--readme", str(file)]) == 0
    text = file.read_text()
    assert text.startswith("# Title\n\n")
    assert text.endswith(f"{readme.END}\n\nRest.\n")
    assert "old" not in text
    assert text.count("| 64K |") == 2
    assert text.index("B = 8: This book") < text.index("B = 1: This book")
    assert "recorded on Made-up GPU 1" in text
    image = tmp_path / readme.IMAGE
    assert image.read_bytes()[:4] == b"\x89PNG"
    assert image.stat().st_size < 100_000
    assert image.with_suffix(".svg").read_text().startswith("<?xml")
    assert f"]({readme.IMAGE})" in text
    again = image.read_bytes()
    assert cli.main(["readme", "--record", str(path), "--readme", str(file)]) == 0
    assert (file.read_text(), image.read_bytes()) == (text, again)

    file.write_text("no markers")
    assert cli.main(["readme", "--record", str(path), "--readme", str(file)]) == 2
    assert file.read_text() == "no markers"


def test_figures_for_slides(record, tmp_path):
    path = results.write(record, tmp_path / "gpu.json")
    assert cli.main(["figures", str(path), "--out", str(tmp_path / "out")]) == 0
    drawn = sorted((tmp_path / "out").iterdir())
    assert [p.name for p in drawn] == [
        f"made-up-gpu-1-b{B}.{kind}" for B in (1, 8) for kind in ("png", "svg")
    ]
    assert drawn[1].read_text().startswith("<?xml")
    before = [p.read_bytes() for p in drawn]
    assert cli.main(["figures", str(path), "--out", str(tmp_path / "out")]) == 0
    assert [p.read_bytes() for p in drawn] == before
    assert cli.main(["figures", "h900", "--out", str(tmp_path / "out")]) == 2


def test_the_readmes_figure_is_drawn_with_the_others(make_record, tmp_path):
    """By the same code as `readme` draws it: the files are the same to the last byte."""
    path = results.write(make_record(slug=results.MAIN), tmp_path / "gpu.json")
    assert cli.main(["figures", str(path), "--out", str(tmp_path / "out")]) == 0
    drawn = {p.name for p in (tmp_path / "out").iterdir()}
    names = ("headline", f"{results.MAIN}-b1", f"{results.MAIN}-b8")
    assert drawn == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    file = tmp_path / "README.md"
    file.write_text(f"{readme.BEGIN}\n{readme.END}\n")
    assert cli.main(["readme", "--record", str(path), "--readme", str(file)]) == 0
    for kind in ("png", "svg"):
        name = f"headline.{kind}"
        again = (tmp_path / readme.IMAGE).with_name(name)
        assert again.read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_the_readmes_figure_is_in_results():
    image = hardware.ROOT / readme.IMAGE
    assert image.exists() and image.with_suffix(".svg").exists()


def test_check_as_json(record, tmp_path, capsys):
    import json

    path = results.write(record, tmp_path / "gpu.json")
    assert cli.main(["check", str(path), "--json"]) == 0
    (facts,) = json.loads(capsys.readouterr().out)
    assert (facts["measurements"], facts["verified"], facts["complete"]) == (96, 88, True)


def test_import_is_light():
    """The instruments load no plotting or table library, so that they run on a bare GPU host."""
    code = (
        "import sys, bench.cli, bench.runner, bench.figures, bench.tables; "
        "print([m for m in ('plotly', 'pandas', 'matplotlib', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=hardware.ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
