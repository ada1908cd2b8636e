"""The small kernels of the chapters: right where they say so, and wrong where the text says so."""

import ahead
import pytest
import torch
from oracle import DEVICE, ON_GPU, TOLERANCE, assert_close, randn, relative_error, truth

from kernels.steps import (
    STEPS,
    fences,
    mask_trap,
    masked,
    normalized,
    offsets,
    split,
    state_pass,
    strided,
)

STEP = {step.name: step for step in STEPS}
MASKED = ["masked", "strided", "split"]
STRIDED = ["strided", "split"]
NAN, SENTINEL = float("nan"), -7777.0

# in bfloat16, which the interpreter gets wrong, tiles are 64 wide
DTYPES = [torch.float32, torch.bfloat16] if ON_GPU else [torch.float32]


def qkv(N, D=32, Dv=None, B=1, H=2, dtype=torch.float32):
    widths = (D, D, D if Dv is None else Dv)
    return tuple(randn(B, H, N, d, dtype=dtype, seed=i) for i, d in enumerate(widths))


def view(x):
    """The same values, in memory as [B, N, H, D]."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def wanted(step, q, k, v):
    return truth(q, k, v, feature_map=step.feature_map, normalize=step.normalize)[0]


def assert_right(step, q, k, v, **options):
    o = step.forward(q, k, v, **options)
    assert o.dtype == v.dtype
    assert_close(step.name, o, wanted(step, q, k, v), TOLERANCE[q.dtype])
    return o


def run_fenced(step, q, k, v):
    """o, and how many values behind it were overwritten."""
    out = fences.fenced(torch.full_like(v, NAN), 64, SENTINEL)
    o = step.forward(*(fences.fenced(x, 64, NAN) for x in (q, k, v)), out=out)
    assert o.data_ptr() == out.data_ptr()
    return o, int((fences.fence(out) != SENTINEL).sum())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("N", [64, 192])
@pytest.mark.parametrize("name", STEP)
def test_every_step_is_right_for_whole_blocks(name, N, dtype):
    assert_right(STEP[name], *qkv(N, D=64, B=2, H=3, dtype=dtype))


@pytest.mark.parametrize("D, Dv", [(16, 64), (64, 16), (32, 32)])
@pytest.mark.parametrize("name", STEP)
def test_every_step_takes_other_powers_of_two(name, D, Dv):
    assert_right(STEP[name], *qkv(64, D, Dv))


def test_the_state_of_the_first_kernel():
    _, k, v = qkv(128, 32, 16)
    assert_close("S", state_pass.state(k, v), k.double().mT @ v.double(), TOLERANCE[k.dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("N, D, Dv", [(100, 64, 64), (1, 48, 33), (65, 64, 40), (300, 50, 64)])
@pytest.mark.parametrize("name", MASKED)
def test_masks_allow_any_size(name, N, D, Dv, dtype):
    assert_right(STEP[name], *qkv(N, D, Dv, dtype=dtype))


@pytest.mark.parametrize("D, Dv", [(1, 1), (3, 64), (17, 5)])
@pytest.mark.parametrize("name", MASKED)
def test_masks_allow_narrow_heads(name, D, Dv):
    assert_right(STEP[name], *qkv(70, D, Dv))


@pytest.mark.parametrize("name", STEP)
def test_steps_stay_inside_their_tensors_where_they_are_right(name):
    _, overwritten = run_fenced(STEP[name], *qkv(128))
    assert overwritten == 0


@pytest.mark.parametrize("name", MASKED)
def test_masked_steps_stay_inside_their_tensors(name):
    q, k, v = qkv(100)
    o, overwritten = run_fenced(STEP[name], q, k, v)
    assert overwritten == 0
    assert_close(name, o, wanted(STEP[name], q, k, v), TOLERANCE[q.dtype])


@pytest.mark.parametrize("name", STRIDED)
def test_strides_allow_any_layout(name):
    q, k, v = qkv(100, 24, 40, B=2)
    assert_right(STEP[name], view(q), view(k), view(v))
    assert_right(STEP[name], q.mT.contiguous().mT, k, v[:, :, :1].expand_as(v))
    wide = randn(2, 2, 100, 48, seed=9)
    assert_right(STEP[name], wide[..., ::2], k, v)


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 40])
def test_any_number_of_parts_is_right(parts):
    assert_right(STEP["split"], *qkv(300), parts=parts)


@pytest.mark.parametrize("parts", [1, 4])
def test_parts_give_the_same_bits_on_every_run(parts):
    inputs = qkv(512)
    first = split.forward(*inputs, parts=parts)
    assert all(torch.equal(split.forward(*inputs, parts=parts), first) for _ in range(3))


def test_parts_are_added_in_order():
    states = randn(5, 3, 700)
    total = torch.zeros_like(states[0])
    for state in states:
        total = total + state
    assert torch.equal(split.combine(states), total)


def test_every_block_belongs_to_one_part():
    """As the chapter's figure finds it out: φ(0) = 1, and v marks the block of each row."""
    blocks, parts = 7, 3
    marks = torch.nn.functional.one_hot(torch.arange(64 * blocks) // 64, blocks)
    v = marks.float().expand(1, 2, -1, -1).to(DEVICE)
    k = torch.zeros(1, 2, 64 * blocks, 16, device=DEVICE)
    seen = split.partial_states(k, v, parts)[:, :, :blocks] > 0  # [parts, heads, blocks]
    assert (seen.sum(0) == 1).all()


def test_there_are_enough_parts_and_no_tiny_ones():
    device = torch.device("cpu")
    assert split.number_of_parts(1, 100, device) == 1
    assert split.number_of_parts(10**6, 10**6, device) == 1
    assert split.number_of_parts(1, 10**6, device) == split.INTERPRETER * split.PROGRAMS
    assert split.number_of_parts(2, 1024, device) == 4


# --- the faults that the chapter shows ----------------------------------------------------------


@pytest.mark.parametrize("name", ["two-passes", "normalized"])
def test_fault_without_masks_steps_leave_their_tensors(name):
    q, k, v = qkv(100)
    o, overwritten = run_fenced(STEP[name], q, k, v)
    want = wanted(STEP[name], q, k, v)
    assert overwritten == 28 * v.shape[-1]
    assert 0.01 < relative_error(o[:, 0], want[:, 0]) < 100  # it read the other head
    # it read what is behind; its first rows may be those that the other head's program wrote
    assert torch.isnan(o[:, 1, 28:]).all()


@pytest.mark.parametrize("name", ["two-passes", "normalized"])
def test_fault_without_masks_a_head_size_must_be_a_power_of_two(name):
    with pytest.raises(Exception) as caught:
        STEP[name].forward(*qkv(64, 48))
    assert "power of 2" in str(caught.value) + str(caught.value.__cause__)


@pytest.mark.parametrize("N", [1, 63, 65, 100, 250])
def test_fault_the_masked_key_counts_in_the_normalizer(N):
    q, k, v = qkv(N)
    error = relative_error(mask_trap.forward(q, k, v), wanted(STEP["masked"], q, k, v))
    missing = -N % 64
    predicted = missing / (1.16 * N + missing)  # as the chapter predicts it
    assert error == pytest.approx(predicted, rel=0.2)
    assert error > 100 * TOLERANCE[q.dtype]


def test_the_trap_is_right_in_everything_else():
    assert_right(STEP["mask-trap"], *qkv(128, 48, 20))
    _, overwritten = run_fenced(STEP["mask-trap"], *qkv(100))
    assert overwritten == 0


@pytest.mark.parametrize("name", ["two-passes", "normalized", "mask-trap", "masked"])
@pytest.mark.parametrize("which", [0, 1, 2], ids="qkv")
def test_fault_assumed_strides(name, which):
    inputs = list(qkv(128))
    inputs[which] = view(inputs[which])
    error = relative_error(STEP[name].forward(*inputs), wanted(STEP[name], *inputs))
    assert error > 0.1


def test_fault_offsets_wrap_in_32_bits():
    assert offsets.offsets(500, 2**22, DEVICE) == (500 * 2**22, 500 * 2**22)
    assert offsets.offsets(600, 2**22, DEVICE) == (600 * 2**22 - 2**32, 600 * 2**22)


@pytest.mark.skipif(not ON_GPU, reason="needs 4 GiB of GPU memory")
def test_strided_steps_count_in_64_bits():
    """The last head of a tensor of more than 2³¹ elements; all heads share the other inputs."""
    N, D = 1024, 64
    heads = 2**31 // (N * D) + 1
    if torch.cuda.mem_get_info()[0] < 12 * 2**30:
        pytest.skip("not enough memory")
    q, k, v = (x.expand(1, heads, N, D) for x in qkv(N, D, H=1, dtype=torch.bfloat16))
    q = q.contiguous()
    for step in (STEP[name] for name in STRIDED):
        o = step.forward(q, k, v)
        last = [x[:, -1:] for x in (q, k, v)]
        assert_close(step.name, o[:, -1:], wanted(step, *last), TOLERANCE[q.dtype])


# --- numbers that are no numbers, fences, compilation -------------------------------------------


@pytest.mark.parametrize("module", [normalized, masked, strided, split])
def test_nan_is_not_swallowed(module):
    q, k, v = qkv(64)
    k[0, 0, 5, 3] = NAN
    assert torch.isnan(module.forward(q, k, v)[0, 0]).all()


def test_fences_stand_behind():
    x = randn(2, 3, 4)
    fenced = fences.fenced(x, 5, SENTINEL)
    assert torch.equal(fenced, x) and fenced.is_contiguous()
    assert fences.fence(fenced).tolist() == [SENTINEL] * 20


def test_step_names_are_unique_and_their_regions_exist():
    from bench import listings

    assert len(STEP) == len(STEPS)
    for step in STEPS:
        assert all("def " in listings.region(*region) for region in step.regions)


COMPILE = """
import json, sys
import ahead
import torch

arch, dtype = map(json.loads, sys.argv[1:])
compiled = ahead.instead_of_launching(arch)
from kernels.steps import STEPS, offsets

x = torch.zeros(2, 2, 128, 64, dtype=getattr(torch, dtype))
for step in STEPS:
    step.forward(x, x, x)
offsets.offsets(2, 3)
print(json.dumps({name: kernel.metadata.shared for name, kernel in compiled.items()}))
"""


COMPILED = {
    "state_pass", "output_pass", "normalized", "masked", "mask_trap", "strided", "split", "offsets",
}  # fmt: skip


@pytest.mark.parametrize("arch, dtype, limit", [(75, "float32", 64), (90, "bfloat16", 227)])
def test_steps_compile_and_fit(arch, dtype, limit):
    """For a T4 and an H100, in a process without the interpreter; no GPU is needed."""
    shared = ahead.run(COMPILE, arch, dtype)
    assert ahead.modules(shared) == COMPILED
    assert max(shared.values()) <= limit * 1024
