"""The kernels of "Introduction to Triton": right where they say so, and wrong on purpose."""

import ahead
import pytest
import torch
import triton.language as tl
from oracle import DEVICE, ON_GPU, randn

from kernels.steps import fences
from kernels.steps.basics import (
    matmul,
    narrow,
    neutral,
    race,
    reduction,
    seen,
    softmax,
    vector_add,
    wide,
)

NAN, SENTINEL = float("nan"), -7777.0
HALF = [torch.float16] if not ON_GPU else [torch.float16, torch.bfloat16]
FLOATS = [torch.float32, *HALF]
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def near(got, want, dtype=torch.float32):
    """Relative error within what the dtype allows; NaN is not near."""
    want = want.double().to(got.device)
    error = (got.double() - want).norm()
    return bool(error <= TOLERANCE[dtype] * want.norm().clamp_min(1e-30))


def room(*shape, dtype=torch.float32):
    """An output full of NaN with a fence behind it."""
    return fences.fenced(torch.full(shape, NAN, dtype=dtype, device=DEVICE), 64, SENTINEL)


def untouched(out):
    return bool((fences.fence(out) == SENTINEL).all())


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("n", [0, 1, 5, 1023, 1024, 1025, 5000])
def test_vector_add(n, dtype):
    x, y = (randn(n, dtype=dtype, seed=i) for i in (0, 1))
    out = fences.fenced(torch.full((n, 1), NAN, dtype=dtype, device=DEVICE), 64, SENTINEL)
    vector_add.add(*(fences.fenced(t[:, None], 64, NAN) for t in (x, y)), out=out)
    assert torch.equal(out[:, 0], x + y) and untouched(out)


def test_vector_add_takes_any_block_and_makes_its_own_output():
    x, y = randn(777, seed=0), randn(777, seed=1)
    for block in (16, 256, 2048):
        assert torch.equal(vector_add.add(x, y, block=block), x + y)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (5, 100), (4, 1024), (2, 1025), (0, 8)])
def test_softmax(shape, dtype):
    x = 20 * randn(*shape, dtype=dtype)
    out = room(*shape, dtype=dtype)
    softmax.softmax(fences.fenced(x, 64, NAN), out)
    assert near(out, torch.softmax(x.double(), -1), dtype) and untouched(out)
    assert near(softmax.naive(x.float()), torch.softmax(x.double(), -1))


def test_softmax_of_large_scores_and_of_views():
    x = 1e4 * randn(6, 40)
    want = torch.softmax(x.double(), -1)
    assert near(softmax.softmax(x), want)
    assert near(softmax.softmax(x.T.contiguous().T), want)  # columns far apart
    wide = torch.full((6, 80), NAN, device=DEVICE)
    wide[:, ::2] = x
    assert near(softmax.softmax(wide[:, ::2]), want)
    out = torch.full((40, 6), NAN, device=DEVICE).T
    assert near(softmax.softmax(x, out), want)


def test_softmax_keeps_nan_to_its_row():
    x = randn(3, 10)
    x[1, 4] = NAN
    out = softmax.softmax(x)
    assert out[1].isnan().all() and not out[0].isnan().any() and not out[2].isnan().any()


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize(
    "M, N, K", [(64, 64, 32), (1, 1, 1), (70, 33, 45), (65, 130, 100), (3, 200, 0), (0, 5, 4)]
)
def test_matmul(M, N, K, dtype):
    a, b = randn(M, K, dtype=dtype, seed=0), randn(K, N, dtype=dtype, seed=1)
    out = room(M, N, dtype=dtype)
    matmul.matmul(fences.fenced(a, 64, NAN), fences.fenced(b, 64, NAN), out)
    assert near(out, a.double() @ b.double(), dtype) and untouched(out)


@pytest.mark.parametrize("group", [1, 2, 3, 8])
def test_matmul_of_views_in_any_order(group):
    a, b = randn(45, 70, seed=0).T, randn(90, 90, seed=1)[::2, ::2].T
    out = torch.full((45, 70), NAN, device=DEVICE).T[:, :45]
    matmul.matmul(a, b, out, tile=(16, 32, 16), group=group)
    assert near(out, a.double() @ b.double())


@pytest.mark.parametrize("tiles_m, tiles_n, group", [(5, 4, 2), (1, 7, 8), (8, 8, 3), (4, 1, 1)])
def test_every_tile_has_one_program(tiles_m, tiles_n, group):
    order = seen.order(tiles_m, tiles_n, group, DEVICE)
    assert sorted(order.flatten().tolist()) == list(range(tiles_m * tiles_n))
    if group == 1:
        assert order.flatten().tolist() == list(range(tiles_m * tiles_n))


@pytest.mark.parametrize("n", [0, 1, 4095, 4097, 20_000])
def test_sums(n):
    x = fences.fenced(randn(n, 1), 4096, NAN).view(-1)
    for total in (reduction.one_program(x), reduction.atomic(x, 3), reduction.two_stage(x, 3)):
        assert abs(total.item() - x.double().sum().item()) <= 1e-5 * max(1, n**0.5)


def test_more_programs_than_blocks_do_no_harm():
    x = torch.ones(5000, device=DEVICE)
    assert reduction.two_stage(x, 100).item() == 5000 == reduction.atomic(x, 100).item()


def test_owners_and_addresses():
    assert seen.owners(10, 4, 14, DEVICE).tolist() == [0] * 4 + [1] * 4 + [2] * 2 + [-1] * 4
    x = torch.empty(8, 16, device=DEVICE)
    for view in (x, x.T, x[:, ::2], x[:1].expand(8, 16)):
        got = seen.addresses(view, 4, 4)
        r, c = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
        want = r * view.stride(0) + c * view.stride(1)
        assert torch.equal(got.cpu().long(), want)


# --- faults, and their cures --------------------------------------------------------------------


def test_the_neutral_element_decides():
    x = -1 - torch.rand(3, 5, device=DEVICE)
    assert torch.equal(neutral.row_max(x, float("-inf")), x.amax(1))
    assert neutral.row_max(x, 0.0).tolist() == [0, 0, 0]
    assert torch.equal(neutral.row_max(-x, 0.0), (-x).amax(1))  # positive rows do not show it
    full = -1 - torch.rand(3, 8, device=DEVICE)
    assert torch.equal(neutral.row_max(full, 0.0), full.amax(1))  # nor do full blocks


@pytest.mark.parametrize("n", [1, 255, 256, 257, 1000])
def test_difference(n):
    x = torch.arange(n, device=DEVICE).float() ** 2
    want = torch.diff(x, prepend=torch.zeros(1, device=DEVICE))
    assert torch.equal(race.difference(x, torch.full_like(x, NAN)), want)
    if not ON_GPU and n > 256:  # the interpreter's order shows the race; a GPU's may not
        wrong = (race.difference(x, x) != want).nonzero().flatten().tolist()
        assert wrong == list(range(256, n, 256))


def test_counting():
    assert race.count(300, True, DEVICE).item() == 300
    if not ON_GPU:  # one program after the other: the race does not show
        assert race.count(300, False, DEVICE).item() == 300


def test_a_narrow_sum_is_far_less_exact():
    a, b = (randn(*shape, dtype=torch.float16) for shape in ((16, 4096), (4096, 16)))
    want = a.double() @ b.double()
    error = {
        dtype: ((narrow.product(a, b, dtype) - want).norm() / want.norm()).item()
        for dtype in (tl.float16, tl.float32)
    }
    assert error[tl.float32] < 1e-5 and 5e-4 < error[tl.float16] < 2e-2


@pytest.mark.skipif(ON_GPU and torch.cuda.mem_get_info()[0] < 6 * 2**30, reason="needs 4 GiB")
def test_narrow_offsets_read_somebody_else():
    x, before = wide.far_rows(DEVICE)
    assert x.stride(0) == 2**30 and before.data_ptr() == x.data_ptr() - 2**31
    assert wide.row_sums(x, wide=True).tolist() == [8, 8, 8]
    assert wide.row_sums(x, wide=False).tolist() == [8, 8, 72]


# --- compilation --------------------------------------------------------------------------------

COMPILE = """
import json, sys
import ahead
import torch

arch, dtype, tiles = map(json.loads, sys.argv[1:])
compiled = ahead.instead_of_launching(arch)
import triton.language as tl
from kernels.steps.basics import (
    matmul, narrow, neutral, race, reduction, seen, softmax, vector_add, wide)

x = torch.zeros(128, 128, dtype=getattr(torch, dtype))
line, half = torch.zeros(9000), torch.zeros(16, 16, dtype=torch.float16)
vector_add.add(line, line)
softmax.softmax(x)
softmax.softmax(torch.zeros(2, 65536))
for options in tiles:
    matmul.matmul(x, x, **options)
reduction.one_program(line), reduction.atomic(line, 2), reduction.two_stage(line, 2)
seen.owners(8, 4, 8, "cpu"), seen.addresses(x, 4, 4), seen.order(4, 4, 2, "cpu")
neutral.row_max(line.view(9, 1000), float("-inf")), race.difference(line, line)
race.count(2, True, "cpu"), race.count(2, False, "cpu")
narrow.product(half, half, tl.float16), narrow.product(half, half, tl.float32)
for far in (False, True):
    wide.row_sums(torch.zeros(2, 8, dtype=torch.int8), far)
print(json.dumps({n: k.metadata.shared for n, k in compiled.items()}))
"""
NAMES = "matmul narrow neutral race reduction seen softmax vector_add wide".split()
COMPILED = {f"basics.{name}" for name in NAMES}  # `watched` is only ever interpreted
HOPPER = [{"tile": t, "num_stages": s} for t, s in (((64, 64, 32), 3), ((128, 128, 64), 4))]
TURING = [{"tile": (32, 32, 16), "num_stages": 2}]


@pytest.mark.parametrize(
    "arch, dtype, limit, tiles", [(75, "float16", 64, TURING), (90, "bfloat16", 227, HOPPER)]
)
def test_they_compile_and_fit(arch, dtype, limit, tiles):
    """For a T4 and an H100, in a process without the interpreter; no GPU is needed."""
    shared = ahead.run(COMPILE, arch, dtype, tiles)
    assert ahead.modules(shared) == COMPILED
    assert {name.split(".")[-1] for name in shared} == {
        "add_kernel", "softmax_kernel", "matmul_kernel", "sum_kernel", "owner_kernel",
        "address_kernel", "order_kernel", "row_max_kernel", "difference_kernel", "count_kernel",
        "product_kernel", "row_sum_kernel",
    }  # fmt: skip
    assert max(shared.values()) <= limit * 1024
