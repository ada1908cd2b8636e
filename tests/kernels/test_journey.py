"""The ladder of the chapter "Optimization journey": every step is right where it says so."""

import ahead
import pytest
import torch
from oracle import ON_GPU, TOLERANCE, assert_close, randn, truth

from kernels.steps import fences
from kernels.steps.journey import STEPS, named, passes

NAN, SENTINEL = float("nan"), -7777.0
DTYPES = [torch.float32, torch.bfloat16] if ON_GPU else [torch.float32]
KERNELS = [step for step in STEPS[:-1] if step.kernels]  # the library's have tests of their own
ANY_N = [step for step in STEPS if step.rows == 1]


def qkv(N, D=64, B=1, H=2, dtype=torch.float32):
    return tuple(randn(B, H, N, D, dtype=dtype, seed=i) for i in range(3))


def assert_right(step, q, k, v, **options):
    o = step.forward(q, k, v, **options)
    assert o.dtype == v.dtype and o.shape == v.shape
    assert_close(step.name, o, truth(q, k, v)[0], TOLERANCE[q.dtype])


def runs_here(step, dtype=torch.float32):
    """Too many stages fail on a GPU; the interpreter has no shared memory to run out of.

    What takes more rows at a time has room for them where a number has two bytes.
    """
    deep = step.name == "too-deep" or (step.name == "wider" and dtype == torch.float32)
    return not (ON_GPU and deep)


@pytest.mark.parametrize(
    "step, dtype",
    [pytest.param(s, t, id=f"{s.name}-{t}") for s in STEPS for t in DTYPES if runs_here(s, t)],
)
def test_every_step_is_right(step, dtype):
    assert_right(step, *qkv(2 * max(step.rows, 48), B=2, H=1, dtype=dtype))


@pytest.mark.parametrize("step", [s for s in STEPS if runs_here(s)], ids=lambda s: s.name)
def test_every_step_is_right_for_the_least_number_of_rows(step):
    assert_right(step, *qkv(max(step.rows, 16)))


@pytest.mark.parametrize("N", [1, 63, 100])
@pytest.mark.parametrize("step", ANY_N, ids=lambda s: s.name)
def test_some_steps_are_right_for_any_number_of_rows(step, N):
    assert_right(step, *qkv(N))


@pytest.mark.parametrize("step", KERNELS, ids=lambda s: s.name)
def test_steps_stay_inside_their_tensors(step):
    if not runs_here(step):
        pytest.skip("it needs more shared memory than there is")
    N = max(step.rows, 100 if step.rows == 1 else 64)
    q, k, v = qkv(N)
    out = fences.fenced(torch.full_like(v, NAN), 64, SENTINEL)
    o = step.forward(*(fences.fenced(x, 64, NAN) for x in (q, k, v)), out=out)
    assert o.data_ptr() == out.data_ptr()
    assert (fences.fence(out) == SENTINEL).all()
    assert_close(step.name, o, truth(q, k, v)[0], TOLERANCE[q.dtype])


@pytest.mark.parametrize("name", ["split", "fused", "masks", "columns", "looped", "whole-waves"])
@pytest.mark.parametrize("part", [64, 192])
def test_any_length_of_a_part_is_right(name, part, monkeypatch):
    monkeypatch.setattr(passes, "PART", part)
    assert_right(named(name), *qkv(384))


def test_nan_is_not_swallowed():
    for step in STEPS:
        if runs_here(step):
            q, k, v = qkv(max(step.rows, 32))
            k[0, 0, 5, 3] = NAN
            assert torch.isnan(step.forward(q, k, v)[0, 0]).all(), step.name


def test_parts_fill_whole_waves():
    device, tile = torch.device("cpu"), passes.Tile(rows=64, resident=2)
    assert passes.parts(tile, 10**6, 4, device) == 8 * 2 // 4  # the interpreter pretends to have 8
    assert passes.parts(tile, 100, 4, device) == 2
    assert passes.parts(tile, 10**6, 100, device) == 1
    assert passes.parts(passes.Tile(), 65536, 4, device) == 65536 // passes.PART


def test_the_ladder_has_no_gaps():
    from bench import listings

    names = [step.name for step in STEPS]
    assert len(set(names)) == len(names)
    for i, step in enumerate(STEPS):
        assert step.before in (names[:i] if i else [None])
        assert all(listings.region(*region) for region in step.regions)


COMPILE = """
import json, sys
import ahead
import torch

arch, dtype, names = map(json.loads, sys.argv[1:])
compiled = ahead.instead_of_launching(arch)
from kernels.steps.journey import named

x = torch.zeros(2, 2, 512, 64, dtype=getattr(torch, dtype))
found, launched = {}, set()
for name in names:
    compiled.clear()
    named(name).forward(x, x, x)
    found[name] = max(kernel.metadata.shared for kernel in compiled.values())
    launched |= set(compiled)
print(json.dumps([found, sorted(launched)]))
"""


ALL = [step.name for step in KERNELS]
FEW = ["tensor-cores", "fused", "columns", "wide", "too-deep"]
NAMES = (
    "rows tiles split tensor_cores fused masks transposed packed columns masks_again looped "
    "reciprocal"
).split()
COMPILED = {*(f"journey.{name}" for name in NAMES), "kernels.bidirectional"}  # which combines
CASES = [  # GPU, dtype, KiB, steps, and those that take more: their rows say that they failed
    pytest.param(75, "float32", 64, ALL, {"wider", "eight-warps"}, id="T4"),
    pytest.param(80, "bfloat16", 163, FEW, {"too-deep"}, id="A100"),
    pytest.param(90, "bfloat16", 227, ALL, {"too-deep"}, id="H100"),
]


@pytest.mark.parametrize("arch, dtype, limit, names, too_much", CASES)
def test_steps_compile_and_fit(arch, dtype, limit, names, too_much):
    """In a process without the interpreter; no GPU is needed."""
    shared, launched = ahead.run(COMPILE, arch, dtype, names)
    assert {name for name, n in shared.items() if n > limit * 1024} == too_much, shared
    if names == ALL:
        assert ahead.modules(launched) == COMPILED


def test_a_step_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="no step 'nope'; known: python-loop, .*library"):
        named("nope")
