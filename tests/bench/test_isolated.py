"""Contenders that kill their process, leave it unusable or never return: the run goes on."""

import signal
import textwrap

import pytest

from bench import isolated
from bench.errors import BenchError
from bench.runner import Entry, Plan
from bench.timing import Sampling

ONCE = Sampling(least=2, most=2, budget_s=0.0, warm_up=1)

PLUGIN = """
import os, signal, sys, time
from bench import contenders, eager, truth
from bench.timing import DeviceLost

calls = 0

def later(action, n):
    def forward(q, k, v, *, causal):
        global calls
        calls += 1
        if calls > n and q.shape[2] >= 128:
            action()
        return eager.linear_attention(q, k, v, causal=causal)
    return forward

def lose():
    raise DeviceLost("an illegal memory access was encountered")

def add(name, action, n=0):
    contenders.register(
        contenders.Contender(name, name, truth.LINEAR, later(action, n), note="")
    )

add("aborts", os.abort)
add("exits", lambda: os._exit(3))
add("killed-in-the-race", lambda: os.kill(os.getpid(), signal.SIGKILL), n=2)
add("hangs", lambda: time.sleep(1000))
add("loses", lambda: (_ for _ in ()).throw(SystemExit(70)))
"""


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "planted.py"
    path.write_text(textwrap.dedent(PLUGIN))
    return str(path)


def plan(*names, **changes):
    small = {"batches": (1,), "heads": 2, "head_dim": 16, "dtype": "float32", "sampling": ONCE}
    small |= {"orders": (False,), "works": ("forward",), "lengths": (64, 128)}
    return Plan(contenders=names, **(small | changes))


def run(*names, plugin, lengths=(64, 128), **options):
    said = []
    chosen = plan(*names, lengths=lengths)
    record = isolated.run(chosen, device="cpu", say=said.append, plugins=[plugin], **options)
    return {(m.contender, m.N): m for m in record.measurements}, said, record


def test_contenders_that_end_their_process_fail_alone(plugin):
    found, said, record = run("eager", "aborts", "killed-in-the-race", plugin=plugin)
    assert record.complete
    assert record.live
    for n in (64, 128):
        assert found["eager", n].ok
    assert found["aborts", 64].ok
    assert found["aborts", 128].status == "failed"
    assert "SIGABRT" in found["aborts", 128].reason
    assert found["killed-in-the-race", 64].ok
    assert "SIGKILL" in found["killed-in-the-race", 128].reason
    assert any("going on without it" in line for line in said)


def test_a_lost_device_and_an_exit_code(plugin):
    found, _, _ = run("loses", "exits", "eager", plugin=plugin, lengths=(128,))
    assert "left the GPU unusable" in found["loses", 128].reason
    assert "exit code 3" in found["exits", 128].reason
    assert found["eager", 128].ok


def test_a_contender_that_never_returns_is_stopped(plugin):
    found, _, _ = run("hangs", "eager", plugin=plugin, lengths=(128,), silence_s=15.0)
    assert "did not return in time" in found["hangs", 128].reason
    assert found["eager", 128].ok


def test_a_run_ends_when_its_time_is_up_and_keeps_what_it_has(plugin):
    found, said, record = run("hangs", "eager", plugin=plugin, limit_s=15.0)
    assert not record.complete
    assert set(found) == {("hangs", 64), ("eager", 64)}
    assert said[-1] == "stopped after 15 s"


def test_who_dies_again_and_again_is_called_no_more(plugin, monkeypatch):
    monkeypatch.setattr(isolated, "MOST_CRASHES", 1)
    found, said, _ = run("aborts", "eager", plugin=plugin, lengths=(128, 256))
    assert "SIGABRT" in found["aborts", 128].reason
    assert found["aborts", 256].reason.startswith("not called, since it 1 times ended its process")
    assert found["eager", 256].ok
    assert sum("going on" in line for line in said) == 1


def test_what_was_done_is_kept_and_resumed(plugin, tmp_path):
    partial = tmp_path / "x.partial.json"
    _, _, first = run("eager", plugin=plugin, lengths=(64,), partial=partial)
    assert partial.exists()
    found, said, record = run("eager", plugin=plugin, partial=partial, before=first)
    assert record.measurements[0] == first.measurements[0]
    assert [x for x in said if x.startswith("[")] == [x for x in said if "[2/2]" in x]


def test_bad_input_and_a_child_that_cannot_start(plugin, monkeypatch):
    with pytest.raises(BenchError, match="no contender 'nobody'"):
        run("nobody", plugin=plugin)
    with pytest.raises(BenchError, match="cannot be loaded"):
        run("eager", plugin="/nowhere/absent.py")
    monkeypatch.setattr(isolated.sys, "executable", "/bin/false")
    with pytest.raises(BenchError, match="outside every call"):
        run("eager", plugin=plugin)


def test_the_journal_outlives_its_writer(tmp_path):
    shape = plan("eager").shapes()[0]
    with isolated.Journal(tmp_path / "j", fresh=True) as journal:
        assert journal.entry() is None
        for name in ("a", "b", "a"):
            journal.note(Entry("comparison", name, "forward", shape))
    with isolated.Journal(tmp_path / "j") as journal:
        assert journal.count() == 3
        assert journal.entry() == Entry("comparison", "a", "forward", shape)


def test_how_a_process_ended():
    assert isolated._death(-signal.SIGSEGV) == "ended its process (SIGSEGV)"
    assert isolated._death(1) == "ended its process (exit code 1)"
    lines = ["Fatal Python error: Segmentation fault", "", 'File "x.py", line 3']
    assert isolated._telling(lines) == "Fatal Python error: Segmentation fault"
    assert isolated._telling([]) == ""
