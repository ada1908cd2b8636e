"""Declarations of contenders: names, what they compute, what is outside the timed call."""

import shlex
import subprocess
import sys
from dataclasses import asdict, replace
from importlib.util import find_spec

import pytest

from bench import contenders, gate, hardware, tables
from bench.roofline import Shape
from bench.runner import Inputs, Plan, prepare

OTHERS = [name for name in contenders.names() if name not in Plan().contenders]


def test_the_field():
    expected = {"book", "eager", "compiled", "loop"}
    expected |= {f"sdpa-{b}" for b in ("flash", "cudnn", "efficient", "math")}
    expected |= {
        f"fla-{mode}{end}"
        for mode in ("chunk", "fused-chunk", "fused-recurrent")
        for end in ("", "-normalized")
    }
    expected |= {"fla-simple-gla", "flash-bla", "flash-bla-simple"}
    expected |= {f"flash-attn-{i}" for i in (2, 3, 4)}
    assert expected <= set(contenders.names())


@pytest.mark.parametrize("name", contenders.names())
def test_every_declaration_is_complete(name):
    c = contenders.get(name)
    assert c.label and c.note and c.install
    assert c.causal and set(c.causal) <= {False, True}
    assert len(c.label) <= 32, "labels stand in figures"
    if name.startswith(("fla", "flash-bla")) and "attn" not in name:
        assert c.function.ready, "these packages have no φ"
        assert c.function.feature_map == "identity"
        assert "φ" in c.outside
    assert c.function.normalize == ("normalize=True" in c.note) or not name.startswith("fla-")


def fault(install: str) -> str | None:
    """What is wrong with the commands that install a contender, or None."""
    if install.startswith("part of "):
        return None
    for command in install.split(" && "):
        words = shlex.split(command, comments=True)
        options = [w for w in words[2:] if w.startswith("-")]
        given = [w for w in words[2:] if w not in options]
        if words[:2] == ["pip", "install"]:
            if not given or any("," in w for w in given):
                return f"{command!r} names nothing that pip can install"
        elif words[:2] == ["git", "clone"]:
            if not given or not given[0].startswith("https://"):
                return f"{command!r} has no address"
        elif words[:1] != ["export"] or "=" not in command:
            return f"{command!r} is no command that is known here"
    return None


@pytest.mark.parametrize("name", contenders.names())
def test_what_installs_a_contender_are_commands(name):
    assert fault(contenders.get(name).install) is None


def test_what_is_no_command_is_found():
    assert "names nothing" in fault("pip install -e")
    assert "has no address" in fault("git clone github.com/x/y && pip install -e y")
    assert "no command" in fault("a checkout of the book")


def test_flash_attn_3_is_on_no_index():
    assert fault(contenders.get("flash-attn-3").install) is None
    assert contenders.get("flash-attn-3").install.endswith("/hopper")
    assert "--pre " in contenders.get("flash-attn-4").install


def test_refusals():
    flash_bla = contenders.get("flash-bla")
    assert flash_bla.refusal(Shape(1, 8, 1024)) is None
    assert flash_bla.refusal(Shape(1, 8, 1024, causal=True)) == "it has no causal form"
    assert "float32" in flash_bla.refusal(Shape(1, 8, 1024, dtype="float32"))
    assert "above 1,024 tokens" in contenders.get("loop").refusal(Shape(1, 8, 2048))
    assert contenders.get("fla-chunk").refusal(Shape(1, 8, 64)) == "it has no bidirectional form"


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(contenders, "find_spec", lambda name: None)
    for name in ("fla-chunk", "flash-bla", "flash-attn-2", "flash-attn-3", "flash-attn-4"):
        assert contenders.get(name).available().startswith("there is no package `fla")
        assert contenders.get(name).install


def test_a_package_without_the_part_is_said(monkeypatch, tmp_path):
    class Spec:
        submodule_search_locations = [str(tmp_path)]

    monkeypatch.setattr(contenders, "find_spec", lambda name: Spec)
    assert (
        contenders.get("flash-attn-4").available() == "the package `flash_attn` here has no `cute`"
    )
    (tmp_path / "cute").mkdir()
    assert contenders.get("flash-attn-4").available() is None


def test_entrants_say_what_is_outside(monkeypatch):
    monkeypatch.setattr(contenders, "find_spec", lambda name: None)
    text = str(tables.entrants(["book", "fla-chunk"]))
    assert "φ, layout" in text
    assert "not installed" in text


FLA = """
import kernels
ours = kernels.__file__
import bench
import fla.ops.linear_attn, fla.ops.simple_gla
import kernels
assert kernels.__file__ == ours
assert callable(kernels.linear_attention) and callable(fla.ops.linear_attn.chunk_linear_attn)
from bench import contenders
assert contenders.get("fla-chunk").available() is None
print("both")
"""


@pytest.mark.skipif(
    find_spec("fla") is None or find_spec("einops") is None,
    reason="fla is not installed: pip install fla-core",
)
def test_ours_and_fla_in_one_process():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FLA],
        cwd=hardware.ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip().endswith("both"), done.stderr


def never_admitted(plans) -> list[str]:
    """Contenders that every shape of the plans which name them is refused by."""
    names = {name for plan in plans for name in plan.contenders}
    return [
        name
        for name in sorted(names)
        if all(
            contenders.get(name).refusal(shape)
            for plan in plans
            if name in plan.contenders
            for shape in plan.shapes()
        )
    ]


def test_a_contender_that_is_only_refused_counts_as_not_raced():
    assert never_admitted([Plan(("book", "loop"), lengths=(4096,))]) == ["loop"]
    assert never_admitted([Plan(("flash-bla",), orders=(True,))]) == ["flash-bla"]


@pytest.mark.parametrize("causal", [False, True])
def test_the_loop_is_that_of_chapter_7(causal, monkeypatch):
    from kernels.steps.journey import python_loop

    seen = []
    step = python_loop.forward
    monkeypatch.setattr(python_loop, "forward", lambda *x: seen.append(len(x)) or step(*x))
    loop = contenders.get("loop")
    inputs = Inputs(Shape(2, 3, 33, 16, 16, "float32", causal), gradients=False, device="cpu")
    call, named = prepare(loop, inputs, "forward")
    assert gate.judge(named(call()), inputs.truth(loop.function), "float32").ok
    assert seen == ([] if causal else [3])


def test_the_study_of_the_field(monkeypatch, record):
    from bench.studies import contenders as study

    asked = []

    def run(*plans, say, limit_s):
        asked.extend(plans)
        assert limit_s <= study.LIMIT_S
        return record

    monkeypatch.setattr(study.isolated, "run", run)
    rows = study.measure(False, print)
    there, gone = rows[: len(record.measurements)], rows[len(record.measurements) :]
    assert {r["status"] for r in there} == {"ok", "failed"}
    assert all((r["share_of_floor"] is None) == (r["status"] != "ok") for r in there)
    assert all(isinstance(v, (str, int, float, bool, type(None))) for r in rows for v in r.values())
    assert {r["status"] for r in gone} <= {"failed", "not_installed"}
    assert all("not raced" in r["reason"] or "no package" in r["reason"] for r in gone)
    assert not any(r["causal"] for r in gone if r["contender"] == "flash-bla")
    assert all(r["causal"] for r in gone if r["contender"].startswith("fla-"))
    raced = {name for p in asked for name in p.contenders}
    assert raced == {n for n in contenders.names() if not n.startswith("step-")}
    assert never_admitted(asked) == []
    assert "flash-bla" in asked[-1].contenders, "what tunes itself for minutes comes last"
    ((quick,),) = study.parts(True)
    assert len(quick.contenders) * len(quick.shapes()) < 10


def test_the_field_keeps_what_it_has_when_the_time_is_up(monkeypatch, record):
    from bench.errors import BenchError
    from bench.studies import contenders as study

    def run(*plans, say, limit_s):
        if any("flash-bla" in plan.contenders for plan in plans):
            raise BenchError("Nothing was measured within 3 s.")
        return field

    field = [replace(m, experiment="field") for m in record.measurements]
    field = replace(record, measurements=field)
    monkeypatch.setattr(study.isolated, "run", run)
    said = []
    rows = study.measure(False, said.append)
    assert said == ["Nothing was measured within 3 s."]
    keys = [tuple(r[k] for k in ("contender", "work", "N", "B", "causal")) for r in rows]
    assert len(keys) == len(set(keys)), "each entry once"
    assert [r for r in rows if r["contender"] == "flash-bla"][0]["status"] != "ok"
    monkeypatch.setattr(study, "LIMIT_S", 0.0)
    with pytest.raises(BenchError, match="Nothing was raced"):
        study.measure(False, said.append)


def test_the_report_of_the_field(record, tmp_path):
    from bench import reports, studies
    from bench.studies import contenders as study

    assert "Nothing is recorded yet" in str(reports.recorded("contenders", tmp_path))
    rows = study.rows(record.measurements)
    gone = study.missing(study.parts(False)[1][:1], [])
    studies.write(studies.Study("contenders", record.provenance, rows + gone), tmp_path)
    report = reports.recorded("contenders", tmp_path)
    longest = report[0]
    assert "(8, 8, 64K, 64), causal, forward + backward" in longest.caption
    assert [r[0] for r in longest.rows if r[3] == "failed"]
    assert "<table" in report._repr_html_()
    assert report.part(0, 99) == [longest]


def test_the_report_marks_unsteady_times_and_those_with_the_host(record, shake):
    from bench import reports, studies
    from bench.studies import contenders as study

    def told(record):
        rows = study.rows(record.measurements)
        return reports.contenders(studies.Study("contenders", record.provenance, rows))[0]

    plain, times, copies = told(record), told(shake(record)), told(shake(record, floor=True))
    assert "†" not in str(plain) and "void" not in str(plain)
    for before, row in zip(plain.rows, times.rows, strict=True):
        if before[3] != "failed":
            assert row[3:] == [before[3] + "†", "void"]
    assert "† Unsteady" in times.caption
    assert {r[4] for r in copies.rows} == {"void", "–"} and "†" not in str(copies)
    assert "void stands for" in copies.caption
    slow = [replace(m, host_included=True) if m.ok else m for m in record.measurements]
    assert "‡ With the time of the host" in told(replace(record, measurements=slow)).caption


def test_a_folded_report_hides_what_does_not_come_first():
    from bench import reports

    report = reports.Report(["one", "two", "three"])
    page = report.folded(1)._repr_html_()
    shown, hidden = page.split("<details>")
    assert "one" in shown and "two" not in shown
    assert "The other 2 tables" in hidden and "three" in hidden
    assert "<details" not in report.folded(3)._repr_html_()
    assert report.folded(1) == report and "<details" not in report._repr_html_()


def test_candidates_are_compiled_ahead_only_for_those_that_tune(monkeypatch):
    from bench import fresh, precompile

    plan = Plan(("book", "fla-chunk", "flash-bla"), batches=(8,), lengths=(65536,))
    monkeypatch.setattr(contenders, "find_spec", lambda name: None)
    assert precompile.wanted([plan]) == []
    assert precompile.compile_ahead([plan]) == 0

    class Spec:
        submodule_search_locations = []

    monkeypatch.setattr(contenders, "find_spec", lambda name: Spec)
    monkeypatch.setattr(contenders.Path, "is_dir", lambda self: True)
    Spec.submodule_search_locations = ["/x"]
    calls = precompile.wanted([plan])
    assert {(name, s["N"], s["causal"]) for name, s, _ in calls} == {
        ("fla-chunk", 4096, True),
        ("flash-bla", 65536, False),
    }
    assert {work for _, _, work in calls} == {"forward", "forward+backward"}
    shares = []

    def call(module, function, options, timeout_s):
        shares.append((options["share"], options["shares"]))
        return {"compiled": 5}

    monkeypatch.setattr(fresh, "call", call)
    said = []
    assert precompile.compile_ahead([plan], said.append, processes=3) == 3
    assert sorted(shares) == [(0, 3), (1, 3), (2, 3)]
    assert said[-1] == "compiled 15 candidates"


def test_a_share_compiles_its_candidates_and_times_none(monkeypatch):
    from triton.runtime import autotuner

    from bench import memory, precompile, runner

    compiled = []

    class Kernel:
        arg_names = ["x"]

        def run(self, x, warmup, grid, BLOCK):
            assert warmup, "launched"
            if BLOCK == 3:
                raise RuntimeError("does not compile")
            compiled.append(BLOCK)

    class Config:
        def __init__(self, block):
            self.block = block

        def all_kwargs(self):
            return {"BLOCK": self.block}

    class Tuner(autotuner.Autotuner):
        def __init__(self):
            self.fn, self.arg_names = Kernel(), ["x"]

        def prune_configs(self, kwargs):
            return [Config(b) for b in range(6)]

    def forward(q, k, v, *, causal):
        Tuner().run(q, warmup=False, grid=(1,))

    c = contenders.get("book")
    monkeypatch.setitem(contenders._registry, "book", replace(c, forward=forward))
    monkeypatch.setattr(autotuner.Autotuner, "run", autotuner.Autotuner.run)
    monkeypatch.setattr(memory, "inputs", lambda *a: (1, 2, 3, None))
    monkeypatch.setattr(runner, "free", lambda device: None)
    calls = [("book", asdict(Shape(1, 1, 64)), "forward")]
    assert precompile.compile_share(calls, share=1, shares=2) == {"compiled": 2}
    assert compiled == [1, 5]
