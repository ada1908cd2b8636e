"""The small causal kernels: right where they say so, and the leak found by the test for it."""

import ahead
import pytest
import torch
from oracle import DEVICE, ON_GPU, TOLERANCE, assert_close, randn, relative_error, truth

from kernels.steps.causal import STEPS, chained, chunked, leak, normalized, order, segmented

STEP = {step.name: step for step in STEPS}
DTYPES = [torch.float32, torch.bfloat16] if ON_GPU else [torch.float32]
EXACT = [name for name in STEP if name != "atomics"]  # the same bits on every run


def qkv(N, D=32, Dv=None, B=1, H=2, dtype=torch.float32):
    widths = (D, D, D if Dv is None else Dv)
    return tuple(randn(B, H, N, d, dtype=dtype, seed=i) for i, d in enumerate(widths))


def wanted(step, q, k, v):
    options = {"feature_map": step.feature_map, "normalize": step.normalize}
    return truth(q, k, v, causal=True, **options)[0]


def poisoned(forward, *inputs, **options):
    """The result of a step whose `torch.empty` holds NaN."""
    empty, like = torch.empty, torch.empty_like
    nan = float("nan")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(nan))
        patch.setattr(torch, "empty_like", lambda *a, **k: like(*a, **k).fill_(nan))
        return forward(*inputs, **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("N", [1, 64, 65, 200])
@pytest.mark.parametrize("name", STEP)
def test_every_step_is_right_for_any_length(name, N, dtype):
    inputs = qkv(N, D=64, B=2, dtype=dtype)
    o = poisoned(STEP[name].forward, *inputs)
    assert o.dtype == dtype
    assert_close(name, o, wanted(STEP[name], *inputs), TOLERANCE[dtype])


@pytest.mark.parametrize("D, Dv", [(16, 64), (64, 16)])
@pytest.mark.parametrize("name", STEP)
def test_every_step_takes_other_powers_of_two(name, D, Dv):
    inputs = qkv(100, D, Dv)
    o = poisoned(STEP[name].forward, *inputs)
    assert_close(name, o, wanted(STEP[name], *inputs), TOLERANCE[torch.float32])


@pytest.mark.parametrize("chunk", [16, 32, 128])
@pytest.mark.parametrize("module", [chunked, normalized, segmented])
def test_any_chunk_is_right(module, chunk):
    step = STEP[module.__name__.rsplit(".", 1)[1]]
    inputs = qkv(300)
    o = poisoned(step.forward, *inputs, chunk=chunk)
    assert_close(step.name, o, wanted(step, *inputs), TOLERANCE[torch.float32])


@pytest.mark.parametrize("segments", [1, 2, 5, 40])
@pytest.mark.parametrize("name", ["segmented", "atomics"])
def test_any_number_of_segments_is_right(name, segments):
    inputs = qkv(300)
    o = poisoned(STEP[name].forward, *inputs, segments=segments)
    assert_close(name, o, wanted(STEP[name], *inputs), TOLERANCE[torch.float32])


@pytest.mark.parametrize("segment", [64, 128, 1024])
def test_any_length_of_a_link_is_right(segment):
    inputs = qkv(300)
    o = poisoned(chained.forward, *inputs, segment=segment)
    assert_close("chained", o, wanted(STEP["chained"], *inputs), TOLERANCE[torch.float32])


@pytest.mark.parametrize("name", EXACT)
def test_two_runs_agree_to_the_last_bit(name):
    inputs = qkv(300)
    assert torch.equal(STEP[name].forward(*inputs), STEP[name].forward(*inputs))


def sees_the_future(forward, t, N=160):
    """Whether the outputs up to token t change when the tokens after it do."""
    inputs = qkv(N)
    before = forward(*inputs)[:, :, : t + 1]
    other = [x.clone() for x in inputs]
    for i, x in enumerate(other):
        x[:, :, t + 1 :] = randn(1, 2, N - t - 1, x.shape[-1], seed=9 + i)
    return not torch.equal(before, forward(*other)[:, :, : t + 1])


@pytest.mark.parametrize("t", [0, 62, 63, 64, 100])
@pytest.mark.parametrize("name", STEP)
def test_no_step_sees_the_future(name, t):
    assert not sees_the_future(STEP[name].forward, t)


@pytest.mark.parametrize("t, found", [(0, True), (62, True), (100, True), (63, False)])
def test_fault_the_leak_is_found_inside_a_chunk_and_not_at_its_end(t, found):
    assert sees_the_future(leak.forward, t) == found


def test_fault_the_leak_shrinks_with_the_root_of_the_position():
    """As the chapter predicts: 1 / √t of one row, so that late rows pass a loose gate."""
    q, k, v = qkv(1024, H=8)
    o, want = leak.forward(q, k, v), wanted(STEP["chunked"], q, k, v)
    errors = ((o - want).norm(dim=-1) / want.norm(dim=-1)).median(1).values[0]
    early, late = errors[4:60].mean().item(), errors[960:1020].mean().item()
    assert 3 < early / late < 14  # √(1000 / 30) is 5.8
    assert relative_error(o, want) > 0.01


def test_a_program_that_waits_for_one_behind_it_waits_in_vain():
    """The interpreter runs one program after another, as a GPU does with those it cannot hold."""
    for numbering in order.NUMBERINGS:
        started, gave_up = order.chain(5, numbering, DEVICE, patience=20)
        assert sorted(started.tolist()) == [0, 1, 2, 3, 4]
        if not ON_GPU:
            vain = [0, 1, 1, 1, 1] if numbering == "reversed" else [0] * 5
            assert gave_up.tolist() == vain


COMPILE = """
import json, sys
import ahead
import torch

arch, dtype = map(json.loads, sys.argv[1:])
compiled = ahead.instead_of_launching(arch)
from kernels.steps.causal import STEPS, leak, order

x = torch.zeros(2, 2, 128, 64, dtype=getattr(torch, dtype))
for step in STEPS[1:]:
    step.forward(x, x, x)
leak.forward(x, x, x)
for numbering in order.NUMBERINGS:
    order.chain(4, numbering, "cpu")
print(json.dumps({name: kernel.metadata.shared for name, kernel in compiled.items()}))
"""


NAMES = {"atomics", "chained", "chunked", "leak", "normalized", "order", "recurrent", "segmented"}
COMPILED = {*(f"causal.{name}" for name in NAMES), "split"}  # whose states `segmented` takes


@pytest.mark.parametrize("arch, dtype, limit", [(75, "float32", 64), (90, "bfloat16", 227)])
def test_steps_compile_and_fit(arch, dtype, limit):
    """For a T4 and an H100, in a process without the interpreter; no GPU is needed."""
    shared = ahead.run(COMPILE, arch, dtype)
    names = {f"{module.__name__}.{kernel}" for step in STEPS for module, kernel in step.kernels}
    assert names <= set(shared)
    assert ahead.modules(shared) == COMPILED
    assert max(shared.values()) <= limit * 1024


def test_what_the_steps_name_exists():
    for step in STEPS:
        assert all(hasattr(module, kernel) for module, kernel in step.kernels)
