"""The replay says what the kernels did, counted here by hand, and its player holds all of it."""

import json
import re
from types import SimpleNamespace

import pytest
import torch
import triton
import triton.language as tl

from bench import replay
from bench.errors import BenchError
from bench.replay_figures import Player, plain, summary

needs_interpreter = pytest.mark.skipif(
    torch.cuda.is_available(), reason="kernels run on the GPU here, and not in the interpreter"
)


@triton.jit
def copy_kernel(x, y, n, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    b_x = tl.load(x + offs, offs < n, 0.0)  # [BLOCK]
    tl.store(y + offs, b_x, offs < n)


def copy(n, block=16):
    x, y = torch.ones(n), torch.empty(n)
    copy_kernel[(triton.cdiv(n, block),)](x=x, y=y, n=n, BLOCK=block)


@needs_interpreter
def test_steps_and_events_of_a_copy():
    found = replay.record(lambda: copy(40))
    assert found.steps == ["copy_kernel"] * 2
    assert found.tensors == {"x": (1, 5), "y": (1, 5)}
    facts = [(e.step, e.program, e.kind, e.tensor, e.runs, e.asked) for e in found.events]
    assert facts == [
        (0, 0, "loaded", "x", [(0, 2)], 64),
        (0, 1, "loaded", "x", [(2, 2)], 64),
        (0, 2, "loaded", "x", [(4, 1)], 32),  # the mask leaves 8 of 16
        (1, 0, "stored", "y", [(0, 2)], 64),
        (1, 1, "stored", "y", [(2, 2)], 64),
        (1, 2, "stored", "y", [(4, 1)], 32),
    ]
    assert found.fetched("x") == [1] * 5 and found.fetched("y") == [0] * 5
    assert found.fetched("y", "stored") == [1] * 5 and found.use("x") == 1.0


@needs_interpreter
def test_every_block_of_a_product_is_loaded_by_three_programs():
    found = replay.record(replay.CALLS["matmul"])
    assert set(found.fetched("a")) == set(found.fetched("b")) == {3}
    assert set(found.fetched("c", "stored")) == {1}
    assert len({e.program for e in found.events}) == 9 and len(found.steps) == 7


@needs_interpreter
def test_parts_halve_the_steps_and_store_two_states():
    one, two = (replay.record(lambda p=p: replay.state_pass(p)) for p in (1, 2))
    loads = [sum(e.kind == "loaded" and e.tensor == "k" for e in r.events) for r in (one, two)]
    assert loads == [4, 4]
    assert one.steps.count("state_kernel") == 10 and two.steps.count("state_kernel") == 6
    assert sum(two.fetched("states", "stored")) == 2 * sum(one.fetched("states", "stored"))
    assert max(two.fetched("states")) >= 1  # the second launch reads what the first has stored


@needs_interpreter
def test_a_slice_of_columns_uses_a_quarter_of_what_it_fetches():
    found = replay.record(replay.CALLS["state, every fourth column"])
    assert found.use("k") == 0.25 and found.use("v") == 1.0


@needs_interpreter
def test_the_causal_kernel_loads_keys_twice_and_queries_once():
    found = replay.record(replay.CALLS["causal, four segments"])
    assert max(found.fetched("k")) == max(found.fetched("v")) == 2
    assert set(found.fetched("q")) == {1} and set(found.fetched("o", "stored")) == {1}


def test_it_is_recorded_in_a_process_of_its_own(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    both = replay.recorded("matmul", "state, two parts")
    assert list(both) == ["matmul", "state, two parts"]
    found = both["state, two parts"]
    assert found.steps[0] == "state_kernel" and found.events[0].runs


def test_a_call_that_fails_is_said():
    with pytest.raises(BenchError, match="matmul, nothing could not be recorded: KeyError"):
        replay.recorded("matmul", "nothing")


def test_a_call_that_launches_nothing_is_said():
    with pytest.raises(BenchError, match="TRITON_INTERPRET=1"):
        replay.record(lambda: None)


@needs_interpreter
def test_the_player_holds_every_event():
    found = replay.record(lambda: copy(40))
    text = Player({"a copy": found, "</script>": found})._repr_html_()
    data = re.search(r'<script type="application/json">(.*?)</script>', text, re.DOTALL).group(1)
    assert json.loads(data) == json.loads(json.dumps([plain(found)] * 2))
    assert 'max="1"' in text and "&lt;/script&gt;" in text and "PALETTE" not in text
    assert summary(found).rows[0] == ["x", "160", "160", "1", "1", "0"]


def test_a_player_of_nothing_says_so():
    with pytest.raises(BenchError, match="there is none"):
        Player({})
    with pytest.raises(BenchError, match="'mine' of it has no step"):
        Player({"mine": SimpleNamespace(steps=[])})
