"""`python -m bench --help` lists the commands. Results on stdout, progress on stderr.

Exit code 0: done. 1: nothing could be measured. 2: bad input or no GPU, said in one sentence.
130: interrupted; with --resume the same command goes on from what was kept, if it says so.
"""

import argparse
import json
import math
import os
import sys
from pathlib import Path

from . import contenders, hardware, kept, results, studies
from .errors import BenchError
from .roofline import FORWARD, WORKS


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the arguments."""

    def error(self, message):
        raise BenchError(f"{self.prog}: {message} (see {self.prog} --help).")


def _integers(text: str) -> list[int]:
    """Whole numbers above 0, one or several with commas between."""
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = [0]
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return values


def _lengths(text: str) -> list[int]:
    """Sequence lengths; below 16 there is too little to verify."""
    values = _integers(text)
    if min(values) < 16 or max(values) > 2**20:
        raise argparse.ArgumentTypeError(f"{text!r} is not from 16 to {2**20}")
    return values


def _one(text: str, most: int, least: int = 1) -> int:
    """One whole number of a range."""
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not one number from {least} to {most}")
    return value


def _head_dim(text: str) -> int:
    return _one(text, 256)


def _heads(text: str) -> int:
    return _one(text, 2**16)


def _length(text: str) -> int:
    return _one(text, 2**20, least=16)


RESUME = "go on where this was interrupted: races, `memory` and `profile` keep what has ended"


def _percent(text: str) -> float:
    """A finite number of percent, not below 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of percent from 0 on")
    return value


def parser() -> argparse.ArgumentParser:
    """The commands and their arguments."""
    from . import steps

    steps.register()  # the help names every contender that `run` knows
    top = _Parser(prog="python -m bench", description="The instruments of the book.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="measure on this machine's GPU and write a record")
    run.add_argument("--out", type=Path, help="results file (default: results/<gpu>.json)")
    run.add_argument("--quick", action="store_true", help="fewer lengths and samples, about 1 min")
    run.add_argument("--contenders", nargs="+", metavar="NAME", help=", ".join(contenders.names()))
    run.add_argument("--batch", nargs="+", type=_integers, metavar="B", help="default: 8 1")
    run.add_argument(
        "--seqlens", nargs="+", type=_lengths, metavar="N", help="default: 512 … 65536"
    )
    run.add_argument("--heads", type=_heads, metavar="H", help="default: 8")
    run.add_argument("--head-dim", type=_head_dim, metavar="D", help="default: 64")
    run.add_argument("--dtype", choices=("bfloat16", "float16", "float32"))
    run.add_argument("--work", choices=WORKS, help="default: both")
    order = run.add_mutually_exclusive_group()
    order.add_argument("--causal", action="store_true", help="causal only")
    order.add_argument("--bidirectional", action="store_true", help="bidirectional only")
    run.add_argument("--resume", action="store_true", help="go on where this was interrupted")
    run.add_argument(
        "--plugin", action="append", default=[], metavar="FILE", help="registers more contenders"
    )
    run.add_argument("--json", action="store_true", help="print the record as JSON on stdout")
    run.set_defaults(act=_run)

    study = commands.add_parser("study", help="measure what a chapter needs beside the race")
    study.add_argument(
        "name", nargs="*", help="studies (default: all): " + ", ".join(studies.names())
    )
    study.add_argument("--out", type=Path, help="folder (default: results/studies)")
    study.add_argument("--quick", action="store_true", help="what a chapter measures itself")
    study.add_argument("--resume", action="store_true", help=RESUME)
    study.set_defaults(act=_study)

    for name, words in REPORTS.items():
        report = commands.add_parser(name, help=words)
        report.add_argument("--quick", action="store_true", help="less of it, in about 20 s")
        report.add_argument("--out", type=Path, help="folder (default: results/studies)")
        report.add_argument("--resume", action="store_true", help=RESUME)
        report.add_argument("--json", action="store_true", help="print the study as JSON")
        report.add_argument(
            "--recorded", metavar="GPU", help="measure nothing: show what is recorded of a GPU"
        )
        if name == "profile":
            report.add_argument(
                "--contender", metavar="NAME", help="profile another one, and write nothing"
            )
        report.set_defaults(act=_report, name=name)

    words = "two records side by side: what sped up, hence what binds it; measures nothing"
    compare = commands.add_parser("compare", help=words, description=_sentence(words))
    compare.add_argument("first", help="a GPU's slug or a file")
    compare.add_argument("second", help="another one, as a rule the faster GPU")
    compare.add_argument("--seqlen", type=_length, metavar="N", help="default: the longest")
    compare.add_argument(
        "--regressions",
        type=_percent,
        metavar="PERCENT",
        help="same GPU, two commits: every case, and exit code 1 if one is slower by more",
    )
    compare.add_argument("--markdown", action="store_true", help="the table in Markdown")
    compare.add_argument("--json", action="store_true", help="print the rows as JSON")
    compare.set_defaults(act=_compare)

    tune = commands.add_parser("tune", help="time every tile of a kernel, and print the best table")
    tune.add_argument("kernel", nargs="*", help="kernels (default: all of kernels/configs.py)")
    tune.add_argument("--head-dim", type=_head_dim, metavar="D", help="default: all in the table")
    tune.add_argument("--quick", action="store_true", help="an eighth of the candidates")
    tune.add_argument("--json", action="store_true", help="print every candidate as JSON")
    tune.set_defaults(act=_tune)

    words = "show a record as tables; measures nothing"
    show = commands.add_parser("show", help=words, description=_sentence(words))
    show.add_argument("record", nargs="?", help="a GPU's slug or a file (default: the best one)")
    show.add_argument("--markdown", action="store_true", help="tables in Markdown")
    show.add_argument("--json", action="store_true", help="print the record as JSON")
    show.set_defaults(act=_show)

    words = "check results files against the schema; measures nothing"
    check = commands.add_parser("check", help=words, description=_sentence(words))
    check.add_argument("file", nargs="+", type=Path)
    check.add_argument("--json", action="store_true", help="print what the files are as JSON")
    check.set_defaults(act=_check)

    figures = commands.add_parser(
        "figures", help="draw the README's figure, and each batch, as PNG and SVG"
    )
    figures.add_argument("record", nargs="*", help="slugs or files (default: every record)")
    figures.add_argument("--out", type=Path, default=hardware.ROOT / "results" / "figures")
    figures.set_defaults(act=_figures)

    readme = commands.add_parser("readme", help="redraw the README's figure and tables")
    readme.add_argument("--record", help="a GPU's slug or a file (default: the best one)")
    readme.add_argument("--readme", type=Path, default=hardware.ROOT / "README.md")
    readme.set_defaults(act=_readme)
    return top


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    try:
        options = parser().parse_args(arguments)
        code = options.act(options)
        sys.stdout.flush()
        return code
    except BenchError as problem:
        _say(str(problem))
        return 2
    except KeyboardInterrupt as problem:
        lost = "files said to be written are kept; what was under way is lost"
        _say(f"Interrupted: {str(problem) or lost}.")
        return 130
    except BrokenPipeError:  # who reads this has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as problem:  # a folder that cannot be written, a full disk
        if problem.filename is None:
            raise
        _say(f"{problem.filename} cannot be used: {problem.strerror}.")
        return 2


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}, and needs no GPU."


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _run(options) -> int:
    from . import isolated, runner

    isolated.load_plugins(options.plugin)
    plans = _plans(options)
    if not hardware.has_gpu():
        raise BenchError(runner.NO_GPU)
    command = hardware.command_line()
    here = hardware.provenance(command)
    out = options.out or results.DIRECTORY / f"{here.slug}.json"
    if out.is_dir() or out.suffix != ".json":
        raise BenchError(f"--out has to name a .json file, and {out} does not.")
    partial = out.with_name(out.name.removesuffix(".json") + results.PARTIAL)
    before = _before(partial, here) if options.resume else None
    try:
        record = isolated.run(
            *plans,
            partial=partial,
            command=command,
            say=_say,
            before=before,
            plugins=options.plugin,
        )
        results.write(record, out)
    except OSError as problem:
        raise BenchError(f"The record cannot be written: {problem}.") from None
    except KeyboardInterrupt:
        kept = (
            f"what was measured is in {partial}, and the same command with --resume goes on"
            if partial.exists()
            else "nothing was measured"
        )
        _say(f"Interrupted: {kept}.")
        return 130
    partial.unlink(missing_ok=True)
    good = sum(m.ok for m in record.measurements)
    _say(f"{out}: {good} of {len(record.measurements)} verified and timed.")
    shaky = sum(bool(m.unsteady) for m in record.measurements)
    if shaky:
        _say(f"{shaky} unsteady: a comparison with those is void.")
    if options.json:
        print(record.to_json(), end="")
    return 0 if good else 1


def _before(partial: Path, here) -> results.Record | None:
    """What an interrupted run has, if this one would measure the same thing."""
    if not partial.exists():
        return None
    before = results.reopen(partial)
    for name in ("gpu", "torch", "triton", "commit", "dirty"):
        was, now = getattr(before.provenance, name), getattr(here, name)
        if was != now:
            raise BenchError(
                f"{partial} was measured with {name} {was}, and here it is {now}: "
                "run without --resume to measure everything anew."
            )
    return before


def _study(options) -> int:
    known = studies.names()
    for name in options.name:
        if name not in known:
            raise BenchError(f"There is no study {name!r}; known: {', '.join(known)}.")
    if not hardware.has_gpu():
        raise BenchError(studies.NO_GPU)
    wanted = options.name or studies.for_this_machine()
    left_out = [] if options.name else [name for name in known if name not in wanted]
    if left_out:
        _say(f"left out, which needs more GPUs: {', '.join(left_out)} (by name it is measured)")
    failed = []
    for name in wanted:
        _say(f"{name}: {studies.about(name)}")
        try:
            gone = studies.rivals_gone(name, options.out)
            if gone:
                _say(f"{name} is kept as recorded, for it has times of what is not here: {gone}")
                continue
            _measured(name, options)
        except Exception as problem:  # the others are still worth having
            failed.append(name)
            kind = "" if isinstance(problem, BenchError) else f"{type(problem).__name__}: "
            _say(f"{name} failed: {kind}{problem}")
    return 1 if failed else 0


def _measured(name: str, options):
    """A study, measured here and written; what has ended is kept until then."""
    folder = options.out or studies.DIRECTORY
    with kept.into(name, folder, options.quick, options.resume) as keep:
        found = studies.run(name, options.quick, hardware.command_line(), _say)
        _say(f"wrote {studies.write(found, options.out)}")
        keep.remove()
    return found


def _report(options) -> int:
    """A study that is also a command: measured here, or as recorded, and printed."""
    name = options.name
    other = getattr(options, "contender", None)
    if other is not None and (options.recorded is not None or options.out):
        raise BenchError("--contender measures and writes nothing: not with --recorded or --out.")
    if options.recorded is not None:
        folder = options.out or studies.DIRECTORY
        known = sorted(path.parent.name for path in folder.glob(f"*/{name}.json"))
        if options.recorded not in known:
            there = ", ".join(known) if known else "none"
            raise BenchError(
                f"There is no {name} of {options.recorded!r} in {folder}; known: {there}."
            )
        place = folder / options.recorded / f"{name}.json"
        study = studies.read(place)
        if study.study != name:
            raise BenchError(f"{place} holds the study {study.study!r}, not {name!r}.")
    elif other is not None:
        other = contenders.get(other).name
        study = studies.run(name, options.quick, hardware.command_line(), _say, contender=other)
    else:
        study = _measured(name, options)
    if options.json:
        print(study.to_json(), end="")
        return 0
    from . import reports

    print(getattr(reports, name)(study))
    return 0


# studies that are commands of their own, printed by the function of that name in reports.py
REPORTS = {
    "limits": "what the operator has to reach, and what this GPU says of it",
    "memory": "peak memory, and the longest sequence that fits",
    "profile": "where the time goes: kernels, bytes, FLOPs, registers, instructions",
}


def _plans(options):
    """The plans that the arguments ask for; the chapters' steps too where nothing is narrowed."""
    from dataclasses import replace

    from . import steps
    from .runner import QUICK_LENGTHS, Plan
    from .timing import QUICK

    shared = {"dtype": options.dtype or str(hardware.default_dtype()).removeprefix("torch.")}
    if options.quick:
        shared["sampling"] = QUICK
    plan = Plan(**shared)
    if options.quick:
        plan = replace(plan, lengths=QUICK_LENGTHS)
    changes = {}
    if options.contenders:
        wanted = [n for part in options.contenders for n in part.split(",")]
        changes["contenders"] = tuple(contenders.get(name).name for name in dict.fromkeys(wanted))
    if options.batch:
        changes["batches"] = tuple(dict.fromkeys(b for part in options.batch for b in part))
    if options.seqlens:
        changes["lengths"] = tuple(sorted({n for part in options.seqlens for n in part}))
    if options.heads:
        changes["heads"] = options.heads
    if options.head_dim:
        changes["head_dim"] = options.head_dim
    if options.work:
        changes["works"] = (options.work,)
    if options.causal or options.bidirectional:
        changes["orders"] = (options.causal,)
    if changes:
        return [replace(plan, **changes)]
    return [plan, steps.plan(**shared), Plan(**shared, **GRAPHS)]


# short sequences, where the host decides: each call captured in a CUDA graph and replayed
GRAPHS = {
    "lengths": (512, 1024, 2048, 4096),
    "works": (FORWARD,),
    "experiment": "graph",
    "clock": "graph",
}


def _record(name: str | None) -> results.Record:
    """A record by slug or file name; without a name the best one."""
    if name is None:
        return results.best_recorded()
    if name.endswith(".json") or "/" in name:
        if '"study"' in results.text_of(name):
            raise BenchError(f"{name} holds a study, and this command shows runs (see --help).")
        return results.read(name)
    return results.load(name)


def _show(options) -> int:
    from . import style, tables

    record = _record(options.record)
    if options.json:
        print(record.to_json(), end="")
        return 0
    for B in sorted(record.values("B"), reverse=True):
        for causal in record.values("causal"):
            for work in record.values("work"):
                title = f"B = {B}, {style.order(causal)}, {style.work_name(work)}"
                table = tables.times(record, B=B, causal=causal, work=work)
                print(f"## {title}\n\n{table.markdown() if options.markdown else table}\n")
    if any(not m.ok for m in record.measurements):
        table = tables.problems(record)
        print(f"## Not timed\n\n{table.markdown() if options.markdown else table}")
    return 0


def _compare(options) -> int:
    from . import comparing

    first, second = _record(options.first), _record(options.second)
    if options.regressions is not None:
        table, bad = comparing.regressions(first, second, options.regressions)
        if not table.rows:
            raise BenchError("The base has no verified measurement, so nothing can be compared.")
        if options.json:
            print(json.dumps(comparing.changes(first, second, options.regressions), indent=1))
        else:
            print(table.markdown() if options.markdown else table)
        return 1 if bad else 0
    if options.json:
        print(json.dumps(comparing.rows(first, second), indent=1))
        return 0
    table = comparing.table(first, second, options.seqlen)
    if not table.rows:
        there = sorted({row["N"] for row in comparing.rows(first, second)})
        if there:
            known = ", ".join(map(str, there))
            raise BenchError(
                f"Nothing was measured at N = {options.seqlen} in both; known: {known}."
            )
        raise BenchError("The two records have no verified measurement in common.")
    print(table.markdown() if options.markdown else table)
    return 0


def _tune(options) -> int:
    from . import tuning
    from .runner import NO_GPU

    known = tuning.kernels()
    for name in options.kernel:
        if name not in {kernel for kernel, _ in known}:
            there = ", ".join(dict.fromkeys(kernel for kernel, _ in known))
            raise BenchError(f"There is no kernel {name!r} in kernels/configs.py; known: {there}.")
    wanted = [
        (kernel, features)
        for kernel, features in known
        if (not options.kernel or kernel in options.kernel)
        and options.head_dim in (None, features)
        and features in tuning.SHAPES
    ]
    if not wanted:
        raise BenchError(f"The table has no kernel for heads of {options.head_dim}.")
    if not hardware.has_gpu():
        raise BenchError(NO_GPU)
    rows = tuning.tune(wanted, options.quick, _say)
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        print(tuning.table(rows, hardware.provenance().line(live=True)))
        print(tuning.lines(rows))
    return 0 if tuning.best(rows) else 1


def _check(options) -> int:
    found = []
    for file in options.file:
        if '"study"' in results.text_of(file):
            study = studies.read(file)
            facts = {"study": study.study, "gpu": study.provenance.gpu, "rows": len(study.rows)}
            text = f"study {study.study}, {study.provenance.gpu}, {len(study.rows)} rows"
        else:
            record = results.read(file)
            good, total = sum(m.ok for m in record.measurements), len(record.measurements)
            facts = {"gpu": record.provenance.gpu, "measurements": total, "verified": good}
            facts["complete"] = record.complete
            text = (
                f"schema {record.schema_version}, {record.provenance.gpu}, {total} measurements, "
                f"{good} verified and timed, {'complete' if record.complete else 'not complete'}"
            )
        found.append({"file": str(file), **facts})
        if not options.json:
            print(f"{file}: {text}.")
    if options.json:
        print(json.dumps(found, indent=1))
    return 0


def _figures(options) -> int:
    from . import readme

    _check_matplotlib()
    for name in options.record or results.available():
        for path in readme.draw(_record(name), options.out):
            _say(f"wrote {path}")
    return 0


def _check_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise BenchError("The figure needs matplotlib: pip install matplotlib") from None


def _readme(options) -> int:
    from . import readme

    _check_matplotlib()
    for path in readme.update(_record(options.record), options.readme):
        _say(f"wrote {path}")
    return 0
