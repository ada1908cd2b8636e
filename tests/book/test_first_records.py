"""Pages on the day their studies are first recorded: on the book's GPU, on another, on that alone.

The records are made up by the code that will make the real ones, with the GPU taken out of it.
And pages with no more than a live build measures, which is less than what is recorded.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import product

import pytest

from bench import book, memory, parallel_figures, results, roofline, steps, studies, timing
from bench.hardware import ROOT
from bench.results import Measurement
from bench.runner import Entry
from bench.studies import causal as causal_study
from bench.studies import (
    contenders,
    decay,
    decoding,
    journey,
    launches,
    quadratic_problem,
    quality,
    triton_basics,
)
from bench.studies import memory as memory_study

PAGES = (
    "04_gpu_memory_hierarchy", "12_decay", "13_sequence_parallelism", "labs/memory_profiling",
    "labs/benchmark_comparison",
)  # fmt: skip
LIVE_PAGES = (
    "02_quadratic_problem", "05_triton_introduction",
    "06_kernel_development", "07_optimization_journey", "08_causal_attention",
    "09_backward_pass", "10_decoding",
    "11_quality", "12_decay", "13_sequence_parallelism", "labs/complexity_analysis",
    "labs/benchmark_comparison",
)  # fmt: skip
LATE = [step.name for step in journey.STEPS[len(journey.STEPS) // 2 :]]
SHARED = ("memory-hierarchy", "quadratic-problem", "chunk-size", "allocator")
ORDERS = list(product((False, True), roofline.WORKS))


def memory_rows(monkeypatch) -> list[dict]:
    """What `memory.survey` says of contenders whose need of memory is a formula."""
    room = [80 * memory.GIB]

    def need(contender, shape, work, device, peaks=True):
        tensors = 4 if work == roofline.FORWARD else 8
        peak = 2 * shape.B * shape.H * shape.N * shape.D * tensors
        if contender.name == "sdpa-math":
            peak += 4 * shape.B * shape.H * shape.N**2
        if peak > room[0]:
            return {"status": "failed", "reason": "out of memory", "out_of_memory": True}
        found = {"outputs_bytes": peak // 4, "extra_bytes": peak // 8, "before_bytes": peak // 2}
        found |= {"peak_allocated_bytes": peak, "peak_reserved_bytes": peak}
        seconds = {"seconds": 1e-6 * shape.N}
        return {"status": "ok", "reason": None, **(found | seconds if peaks else {})}

    monkeypatch.setattr(memory, "_try", need)
    monkeypatch.setattr(memory, "capacity", lambda device: 80 * memory.GIB)
    monkeypatch.setattr(
        memory, "limit_memory", lambda share, device: room.insert(0, share * 80 * memory.GIB)
    )
    rows = [
        row
        for name in memory_study.CONTENDERS[:-1]
        for row in memory.survey(name, memory_study.CASES)
    ]
    assert {r["status"] for r in rows} == {"ok", "failed", "predicted", "not_installed"}
    return [*rows, memory_study._failed(memory_study.CONTENDERS[-1], "not measured in time")]


def contender_rows() -> list[dict]:
    """Those of PyTorch were raced; of the others it is said that they were not."""
    found = [
        Measurement(
            plan.experiment, name, shape.causal, work, shape.B, shape.H, shape.N, shape.D,
            shape.Dv, shape.dtype, "ok", None, 1.0, 0.9, 1.1, 9,
            bytes=1, flops=1, floor_ms=0.5, error=0.0, verified="o",
        )
        for plan in contenders.parts(False)[0] for shape in plan.shapes()
        for work in plan.works for name in plan.contenders[:4]
    ]  # fmt: skip
    every = [plan for part in contenders.parts(False) for plan in part]
    return contenders.rows(found) + contenders.missing(every, found)


def decay_rows(monkeypatch) -> list[dict]:
    """All parts of the study of decay, with calls that do nothing."""

    def judged(way, inputs, shape, works):
        if way.theirs:
            return dict.fromkeys(works, {"status": "failed", "reason": "there is no fla here"}), {}
        fact = {"status": "ok", "reason": None, "error": 0.003}
        return dict.fromkeys(works, fact), dict.fromkeys(works, lambda: None)

    def accuracy(watch):
        for horizon in decay.HORIZONS:
            errors = dict.fromkeys(("o", "dq", "dk", "dv", "ddecay"), 0.01)
            errors["ddecay"] = 0.01 if horizon != 1 else None
            row = {"part": "accuracy", "horizon": horizon, "status": "ok", "reason": None}
            yield row | {f"{name}_error": x for name, x in errors.items()}

    monkeypatch.setattr(decay, "judged_by_work", judged)
    monkeypatch.setattr(decay, "accuracy", accuracy)
    monkeypatch.setattr(decay, "Inputs", lambda *a: None)
    monkeypatch.setattr(decay.floor, "copy_call", lambda *a: lambda: None)
    once = timing.Sampling(least=1, most=1, budget_s=0.0)
    end = float("inf")
    watch = decay.Watch(timing.HostClock(), once, False, end, "bfloat16", "cpu")
    rows = decay.measure(False, lambda text: None, watch)
    assert not [r for r in rows if r["status"] == "failed" and r.get("way") != "simple-gla"]
    return [*rows, {"part": "length", "B": 8, "N": 2**18, **decay.left_out()}]


def parallel_rows() -> list[dict]:
    """Two GPUs that are twice as fast as one but for an exchange."""
    rows = [{"what": "machine", "ranks": 2, "gpus": "A, A", "status": "ok"}]
    for op, nbytes in product(("all-gather", "all-reduce"), (133120, 2**20)):
        exchange = {"what": "exchange", "op": op, "ranks": 2, "bytes": nbytes, "status": "ok"}
        rows.append(exchange | {"device_us": 20.0, "spread": 1.1, "host_us": 40.0})
    agreement = {"what": "exchange", "op": "agreement", "ranks": 2, "bytes": 1024, "status": "ok"}
    rows.append(agreement | {"host_us": 90.0})
    for (causal, work), i in product(ORDERS, range(16, 25)):
        row = {"what": "call", "N": 2**i, "causal": causal, "work": work, "status": "ok"}
        for ranks, way in ((1, "one-gpu"), (1, "both"), *((2, w) for w in parallel_figures.WAYS)):
            ms = 0.01 + 2**i / ranks / 2**20 + 0.02 * (ranks > 1)
            piece = {"what": "piece"} if (ranks, way) == (1, "both") else {}
            times = {"device_ms": ms, "eager_ms": 2 * ms, "spread": 1.0}
            rows.append(row | piece | {"ranks": ranks, "way": way, **times})
        gone = {"what": "call", "N": 2**24, "status": "oom", "reason": "the tensors do not fit"}
        rows.append(row | gone | {"ranks": 1, "way": "no-overlap"})
    return rows


@pytest.fixture(scope="module")
def made_up():
    """Study -> rows."""
    with pytest.MonkeyPatch.context() as patch:
        return {
            "memory": memory_rows(patch), "contenders": contender_rows(),
            "decay": decay_rows(patch), "sequence-parallel": parallel_rows(),
        }  # fmt: skip


def planted(where, made_up, folder):
    """results/ as it would be; a study is in the folder of a GPU."""
    shutil.copytree(results.DIRECTORY, folder)
    ours = results.load(results.MAIN)
    other = {"gpu": "NVIDIA H200", "slug": "nvidia-h200"}
    gpus = [ours.provenance]
    if where != "on the book's GPU":
        gpus = [replace(ours.provenance, **other)]
        results.write(replace(ours, provenance=gpus[0]), folder / "nvidia-h200.json")
        for name in SHARED:
            study = studies.recorded(name)[0]
            mine = replace(study, provenance=replace(study.provenance, **other))
            studies.write(mine, folder / "studies")
            if where == "on another GPU alone":
                (folder / "studies" / results.MAIN / f"{name}.json").unlink()
    if where == "on both":
        gpus.append(ours.provenance)
    for (name, rows), gpu in product(made_up.items(), gpus):
        path = studies.write(studies.Study(name, gpu, rows), folder / "studies")
        assert studies.read(path).rows, "it fits the schema"


PROGRAM = """
import json, os, re, sys
from dataclasses import replace
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell

import bench
import bench.book
import bench.claims

folder, pages = json.loads(sys.argv[1])
claim = bench.claims.claim


def told(*args, **kwargs):
    made = claim(*args, **kwargs)
    if made.surprising and "H100" in made.gpu:  # then a build fails, if it is recorded
        print(f"surprising on {page}: {made!r}")
    if made.held is None:
        print(f"undecided on {page}: {made!r}")
    return made


def measured(name, directory=None):
    path = Path(folder, "live", name + ".json")
    return replace(bench.studies.read(path), live=True) if path.exists() else known(name)


def opened(*args, **kwargs):
    there, path = session(*args, **kwargs), Path(folder, "live.json")
    if path.exists():
        there = replace(there, main=replace(bench.results.read(path), live=True))
    return there


bench.claims.claim = told
session, bench.book.session = bench.book.session, opened
known, bench.studies.study = bench.studies.study, measured
bench.results.DIRECTORY = Path(folder)
bench.studies.DIRECTORY = Path(folder, "studies")
for page in pages:
    shell = InteractiveShell()
    os.chdir(bench.hardware.ROOT / "chapters" / Path(page).parent)
    text = Path(bench.hardware.ROOT, "chapters", page + ".md").read_text()
    cells = re.findall(r"```{code-cell}.*?\\n(?::tags:.*?\\n)?(.*?)```", text, re.DOTALL)
    for cell in cells:
        if re.search(r"^(check|said)\\(|torchrun\\(", cell, re.MULTILINE):
            continue  # what has no study in it
        done = shell.run_cell(cell)
        if not done.success:
            print("FAILED", page, cell, sep="\\n")
            sys.exit(1)
        for name in ("_repr_html_", "_repr_mimebundle_"):
            if hasattr(done.result, name):
                getattr(done.result, name)()
    print("all of", page)
"""


def in_quick_form(name: str, r: dict) -> bool:
    """Whether the quick form of a study has this row."""
    if name == "journey":
        many = r.get("B") in (None, journey.BATCHES[0])
        skipped = r["part"] == "waves" and r["parts"] not in journey.WAVES[r["B"]][::2]
        # where the time was over before
        late = r["part"] == "pass" and r["step"] in LATE
        return not skipped and not late and (r["part"] != "pass" or many or r["step"] == "rows")
    if name == "causal":
        if r["part"] == "link":
            return r["segment"] in causal_study.QUICK_LINKS
        if r["part"] == "chunk":  # here the time was over
            return (r["chunk"], r["num_warps"]) in causal_study.QUICK_CHUNKS and r["B"] == 8
        return r["part"] not in ("order", "bits", "cumulative", "counters")
    if name == "decoding":
        few = {"token": decoding.LENGTHS[::2], "prompt": decoding.PROMPTS[:2]}
        longest = r["what"] == "drift" or r.get("B") not in (None, 1)
        known = r["N"] is None or r["N"] in few.get(r["what"], decoding.CHECKPOINTS)
        small = r["N"] is None or not longest or r["N"] <= decoding.QUICK_MOST
        return known and small and r.get("B") in (None, *decoding.BATCHES)
    if name == "quadratic-problem":  # on a GPU of so much memory that nothing fails
        few = {"length": quadratic_problem.QUICK.lengths, "stage": quadratic_problem.QUICK.stages}
        late = r["what"] == "length" and (r["way"] == "math" or r["status"] == "oom")
        return r["what"] != "limit" and r["N"] in few[r["what"]] and not late
    if name == "triton-basics":
        tile = tuple(r.get(f"BLOCK_{x}") for x in "MNK")
        setting = tile, r.get("num_warps"), r.get("num_stages")
        few = {
            "blocks": (r.get("block"), r.get("num_warps")) in triton_basics.QUICK_BLOCKS,
            "softmax": r.get("C") in (*triton_basics.QUICK_ROWS, 1000),
            "warps": r.get("num_warps") in triton_basics.QUICK_WARPS,
            "tiles": setting in triton_basics.QUICK_TILES,
            "order": r.get("group") in triton_basics.QUICK_GROUPS,
        }
        return few.get(r["part"], True)
    if name == "launches":
        return r["part"] != "arguments" or r["arguments"] in launches.QUICK_COUNTS
    if name == "decay":  # here the time was over, and there is no fla
        forward = r["part"] == "time" and r["work"] == roofline.FORWARD
        return forward and r["B"] == decay.BATCHES[0] and r["way"] != "simple-gla"
    if name == "quality":
        group = r.get("group"), r.get("length"), r.get("mixer") in quality.QUICK_MIXERS
        shown = r["what"] == "step" and r["N"] in quality.STEP_LENGTHS[::5] and group[2]
        return r["what"] == "text" or shown or group == ("recall", 256, True)
    return True


def as_measured_live(folder):
    """results/, and beside the studies in `live` the quick forms of what this file knows."""
    shutil.copytree(results.DIRECTORY, folder)
    ours = results.load(results.MAIN)
    plans = book.reduced("bfloat16") + steps.reduced("bfloat16")
    wanted = {
        Entry(plan.experiment, name, work, shape)
        for plan in plans for shape in plan.shapes()
        for work in plan.works for name in plan.contenders
    }  # fmt: skip
    kept = [m for m in ours.measurements if Entry.of(m) in wanted]
    assert len(kept) == len(wanted), "the record has all that is measured live"
    results.write(replace(ours, measurements=kept), folder / "live.json")
    quick = "journey", "causal", "decoding", "quality", "quadratic-problem", "triton-basics"
    for name in (*quick, "launches", "decay"):
        study = studies.recorded(name)[0]
        rows = [r for r in study.rows if in_quick_form(name, r)]
        assert 0 < len(rows) < len(study.rows)
        results.write(replace(study, rows=rows), folder / "live" / f"{name}.json")
    study = studies.recorded("backward")[0]
    done = [r for r in study.rows if r["part"] == "kernel"]  # and no time for more
    rows = [r if r in done else r | {"status": "skipped", "median_ms": None} for r in study.rows]
    results.write(replace(study, rows=rows), folder / "live" / "backward.json")


def show(folder, pages):
    """Run the cells of pages in a process of its own, and what shows their results."""
    given = json.dumps([str(folder), pages])
    path = os.pathsep.join(map(str, (ROOT, ROOT / "chapters")))
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, given], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path},
    )  # fmt: skip
    assert run.returncode == 0, (run.stdout[-3000:], run.stderr[-2000:])
    shown = [x for x in run.stdout.splitlines() if x.startswith("all of")]
    assert shown == [f"all of {page}" for page in pages]
    return run.stdout


def test_pages_show_what_a_live_build_measures(tmp_path):
    as_measured_live(tmp_path / "results")
    said = show(tmp_path / "results", LIVE_PAGES).splitlines()
    odd = [x for x in said if x.startswith("surprising on ")]
    undecided = [x for x in said if x.startswith("undecided on ")]
    assert not undecided, "every claim has rows to be decided by, measured or recorded"
    assert not odd


@pytest.mark.parametrize("there", [True, False], ids=["recorded", "not recorded"])
def test_equal_seconds_are_of_another_gpu_only_while_the_book_s_own_has_none(there, tmp_path):
    shutil.copytree(results.DIRECTORY, tmp_path / "results")
    name = "quality-lengths"
    has = next(s for s in studies.recorded(name) if s.select(group="seconds", status="ok"))
    rows = [r for r in has.rows if there or r.get("group") not in ("seconds", "state")]
    for slug, gpu, kept in ((results.MAIN, "NVIDIA H100 80GB HBM3", rows),
                            ("nvidia-h200", "NVIDIA H200", has.rows)):  # fmt: skip
        found = replace(has.provenance, gpu=gpu, slug=slug)
        studies.write(replace(has, provenance=found, rows=kept), tmp_path / "results" / "studies")
    said = show(tmp_path / "results", ["11_quality"])
    assert ("These are of another GPU" in " ".join(said.split())) is not there
    assert "undecided on" not in said and "surprising on" not in said


@pytest.mark.parametrize(
    "where", ["on the book's GPU", "on another GPU", "on another GPU alone", "on both"]
)
def test_pages_show_their_first_records(where, made_up, tmp_path):
    planted(where, made_up, tmp_path / "results")
    assert "Nothing is recorded yet" not in show(tmp_path / "results", PAGES)
