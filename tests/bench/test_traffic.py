"""Bytes counted in the interpreter: equal to what can be counted by hand."""

import pytest
import torch
import triton
import triton.language as tl

from bench import traffic as counting
from bench.errors import BenchError
from bench.traffic import ELSEWHERE, traffic
from kernels.steps import split, state_pass
from kernels.steps.basics import vector_add
from kernels.steps.journey import named

if isinstance(vector_add.add_kernel, triton.JITFunction):
    pytest.skip("needs TRITON_INTERPRET=1", allow_module_level=True)


@triton.jit
def scatter_kernel(x, out, n, BLOCK: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    b_x = tl.load(x + offs, offs < n, 0.0)
    tl.atomic_add(out + offs * 0, b_x, offs < n)


@triton.jit
def too_far_kernel(x, out):
    tl.store(out, tl.load(x + 1000))


def rows(N, D=16, heads=2, dtype=torch.float32):
    return torch.randn(1, heads, N, D).to(dtype)


@pytest.mark.parametrize("dtype, size", [(torch.float32, 4), (torch.bfloat16, 2)])
def test_each_element_once(dtype, size):
    k, v = (rows(128, dtype=dtype) for _ in range(2))
    found = traffic(lambda: state_pass.state(k, v))
    assert found["k"].loaded == k.numel() * size and found["k"].stored == 0
    assert found["v"].loaded == v.numel() * size
    assert found["s"].stored == 2 * 16 * 16 * 4 and found["s"].loaded == 0
    assert found.total == 2 * k.nbytes + 2 * 16 * 16 * 4
    assert ELSEWHERE not in found


def test_what_a_mask_leaves_out_does_not_count():
    x, y = torch.randn(2, 1000)
    found = traffic(lambda: vector_add.add(x, y))
    assert (found["x"].loaded, found["y"].loaded, found["out"].stored) == (4000, 4000, 4000)


def test_every_program_counts():
    """Each tile of the output pass loads the state again; a loop over tiles loads it once."""
    q, k, v = (rows(256, D=32) for _ in range(3))
    size = 2 * (32 * 32 + 32) * 4
    again = traffic(lambda: named("columns").forward(q, k, v))
    once = traffic(lambda: named("looped").forward(q, k, v))
    assert again["states"].loaded == 4 * size and once["states"].loaded == size
    assert again["q"].loaded == once["q"].loaded == q.nbytes


def test_launches_are_added_up():
    k, v = (rows(128) for _ in range(2))
    states = split.partial_states(k, v, 2)
    found = traffic(lambda: split.combine(split.partial_states(k, v, 2)))
    assert found["k"].loaded == k.nbytes
    assert found["states"].stored == found["states"].loaded == states.nbytes
    assert found["total"].stored == states.nbytes // 2


def test_views_of_one_tensor_are_told_apart():
    both = torch.randn(2, 1, 1, 64, 16)
    found = traffic(lambda: state_pass.state(both[0], both[1]))
    assert found["k"].loaded == found["v"].loaded == both.nbytes // 2


def test_an_atomic_update_loads_and_stores():
    x, out = torch.ones(10), torch.zeros(1)
    found = traffic(lambda: scatter_kernel[(1,)](x=x, out=out, n=10, BLOCK=16))
    assert found["x"].loaded == found["out"].loaded == found["out"].stored == 40
    assert out.item() == 10


def test_addresses_outside_are_reported():
    room = torch.zeros(2000)
    found = traffic(lambda: too_far_kernel[(1,)](x=room[:10], out=room[1500:1501]))
    assert found[ELSEWHERE].loaded == 4 and found["out"].stored == 4


def test_the_interpreter_is_left_as_it_was():
    from triton.runtime import interpreter

    memory, prepare = interpreter._interpreter, interpreter.GridExecutor._init_args_hst
    with pytest.raises(ZeroDivisionError):
        traffic(lambda: 1 / 0)
    with pytest.raises(BenchError, match="TRITON_INTERPRET"):
        traffic(lambda: None)
    assert interpreter._interpreter is memory
    assert interpreter.GridExecutor._init_args_hst is prepare


def test_empty_tensors_have_no_extent():
    assert counting._extent(torch.empty(0, 4))[0] == counting._extent(torch.empty(0, 4))[1]
