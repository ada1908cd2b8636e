"""An interrupted study keeps what has ended, and goes on from there where nothing has changed."""

import os
import signal
from dataclasses import replace

import pytest

from bench import cli, fresh, hardware, isolated, kept, studies
from bench.errors import BenchError
from bench.hardware import Provenance
from bench.runner import Plan
from bench.timing import Sampling

GPU = Provenance(
    gpu="NVIDIA Test", slug="nvidia-test", date="2026-01-01T00:00:00Z", command="", python="3.12",
    torch="2.11", commit="abc", dirty=False,
)  # fmt: skip


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.setattr(hardware, "provenance", lambda *a: GPU)


def items(items, fail_at=None):
    """What a child process yields: a row for each item, until one ends the process."""
    for item in items:
        if item == fail_at:
            os.kill(os.getpid(), signal.SIGKILL)
        yield {"item": item, "pid": os.getpid()}
        yield {"done": item}


def measured(wanted, stop_at=None, said=None):
    """`items` in turn; Ctrl-C comes when `stop_at` has ended."""

    def say(text):
        if said is not None:
            said.append(text.strip())

    tell = fresh._tell

    def told(*arguments):
        found = tell(*arguments)
        if stop_at and {"done": stop_at} in fresh._results(arguments[0]):
            raise KeyboardInterrupt
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fresh, "_tell", told)
        return fresh.in_turn(
            "tests.bench.test_kept", "items", list(wanted), lambda *a: {"failed": a}, 60.0, say
        )


def test_items_that_ended_are_not_measured_again(tmp_path):
    with pytest.raises(KeyboardInterrupt, match="same command with --resume"):
        with kept.into("memory", tmp_path):
            measured("ab", stop_at="b")
    path = tmp_path / "nvidia-test" / "memory.partial.json"
    assert path.exists()
    said = []
    with kept.into("memory", tmp_path, resume=True) as keep:
        rows = measured("abc", said=said)
        assert [row["item"] for row in rows] == ["a", "b", "c"]
        assert said[:2] == ["a: kept from before", "b: kept from before"]
        assert rows[0]["pid"] == rows[1]["pid"] != rows[2]["pid"], "one process measured a and b"
        keep.remove()
    assert not list(path.parent.iterdir())


def test_without_resume_all_is_measured_anew(tmp_path):
    with kept.into("memory", tmp_path):
        measured("ab")
    said = []
    with kept.into("memory", tmp_path):
        assert len(measured("ab", said=said)) == 2
    assert not [text for text in said if "kept" in text]
    measured("a")
    assert kept.now() is None


def test_what_was_measured_elsewhere_is_refused(tmp_path, monkeypatch):
    with kept.into("memory", tmp_path):
        measured("a")
    for change in ({"commit": "def"}, {"dirty": True}, {"torch": "2.12"}):
        monkeypatch.setattr(hardware, "provenance", lambda *a, c=change: replace(GPU, **c))
        with kept.into("memory", tmp_path, resume=True):
            for _ in range(2):  # a study may go on to its next part
                with pytest.raises(BenchError, match=f"was measured with {next(iter(change))} "):
                    measured("a")
    monkeypatch.setattr(hardware, "provenance", lambda *a: GPU)
    with kept.into("memory", tmp_path, quick=True, resume=True):
        with pytest.raises(BenchError, match="was measured with quick False"):
            measured("a")
    (tmp_path / "nvidia-test" / "memory.partial.json").write_text("{")
    with kept.into("memory", tmp_path, resume=True):
        with pytest.raises(BenchError, match="not a file to go on from"):
            measured("a")


def test_a_race_goes_on_where_it_was(tmp_path):
    once = Sampling(least=2, most=2, budget_s=0.0, warm_up=1)
    plan = Plan(
        ("eager",), batches=(1,), heads=2, head_dim=16, dtype="float32", sampling=once,
        orders=(False,), works=("forward",), lengths=(64, 128),
    )  # fmt: skip

    said = []
    with kept.into("limits", tmp_path) as keep:
        first = isolated.run(plan, device="cpu", say=said.append)
        assert keep.files()[1].name == "limits-1.partial.json"
    again = []
    with kept.into("limits", tmp_path, resume=True) as keep:
        second = isolated.run(plan, device="cpu", say=again.append)
        times = [[m.median_ms for m in r.measurements] for r in (first, second)]
        assert times[0] == times[1], "taken from the file, not measured"
        assert any("[1/2]" in text for text in said) and not any("[1/2]" in t for t in again)
        keep.remove()
    assert not list((tmp_path / "nvidia-test").iterdir())


@pytest.mark.parametrize("ended", [True, False])
def test_the_command_says_what_is_kept(ended, tmp_path, monkeypatch, capsys):
    def run(*arguments, **options):
        if ended:
            kept.now().put("book", [{"kind": "peak"}])
        raise KeyboardInterrupt

    monkeypatch.setattr(studies, "run", run)
    assert cli.main(["memory", "--out", str(tmp_path)]) == 130
    told = capsys.readouterr().err.strip()
    path = tmp_path / "nvidia-test" / "memory.partial.json"
    if ended:
        assert told == (
            f"Interrupted: what has ended is in {path}, and the same command with --resume goes on."
        )
    assert path.exists() == ended and ("is lost" in told) != ended
