"""The small kernels of the backward pass, and the derivation in PyTorch that judges them."""

import ahead
import pytest
import torch
from oracle import GRADIENT, ON_GPU, TOLERANCE, assert_close, randn, relative_error, truth

from kernels.steps import fences
from kernels.steps.backward import by_hand, centred, joined, missing, normalized, plain, saved

DTYPES = [torch.float32, torch.bfloat16] if ON_GPU else [torch.float32]
NAN, SENTINEL = float("nan"), -7777.0
NAMES = ("dq", "dk", "dv")


def inputs(N, D=32, Dv=None, B=1, H=2, dtype=torch.float32, mean=None):
    """q, k, v, do; the values are not centred: else what is missing would hide in dk.

    In bfloat16 nearly so: with a mean of 1 rounding S takes more of dq than is allowed, as the
    chapter tells.
    """
    mean = mean if mean is not None else 0.2 if dtype == torch.bfloat16 else 1.0
    widths = (D, D, Dv or D, Dv or D)
    q, k, v, do = (randn(B, H, N, w, dtype=dtype, seed=i) for i, w in enumerate(widths))
    return q, k, v + mean, do


def wanted(q, k, v, do, **options):
    """The gradients by autograd of the definition, in float64."""
    x = [t.double().requires_grad_() for t in (q, k, v)]
    return torch.autograd.grad(truth(*x, **options)[0], x, do.double())


def assert_gradients(got, want, dtype):
    for name, a, b in zip(NAMES, got, want, strict=True):
        assert a.dtype == dtype
        assert_close(name, a, b, GRADIENT * TOLERANCE[dtype])


# --- by hand -----------------------------------------------------------------------------------


@pytest.mark.parametrize("C", [1, 5, 16, 40])
@pytest.mark.parametrize("is_causal", [False, True])
def test_the_derivation_is_that_of_autograd(is_causal, C):
    x = inputs(37, 8, 5, dtype=torch.float64)
    want = wanted(*x, causal=is_causal)
    if is_causal:
        assert_close("o", by_hand.causal(*x[:3], C), truth(*x[:3], causal=True)[0], 1e-12)
        got = by_hand.causal_gradients(*x, C)
    else:
        assert_close("o", by_hand.bidirectional(*x[:3]), truth(*x[:3])[0], 1e-12)
        got = by_hand.bidirectional_gradients(*x)
    assert_gradients(got, want, torch.float64)


@pytest.mark.parametrize("is_causal", [False, True])
def test_gradcheck_passes_and_finds_the_missing_term(is_causal):
    x = [randn(1, 1, 6, 3, dtype=torch.float64, seed=i).requires_grad_() for i in range(3)]
    check = torch.autograd.gradcheck
    assert check(lambda *a: by_hand.attention(*a, is_causal), x)
    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        check(lambda *a: by_hand.attention(*a, is_causal, True), x)


def test_dropping_the_term_leaves_dv_alone():
    x = inputs(50, 8, dtype=torch.float64)
    for gradients in (by_hand.bidirectional_gradients, by_hand.causal_gradients):
        right, wrong = gradients(*x), gradients(*x, drop=True)
        assert relative_error(wrong[0], right[0]) > 0.5
        assert relative_error(wrong[1], right[1]) > 0.5
        assert torch.equal(wrong[2], right[2])


def test_the_slope_is_read_from_the_value():
    x = torch.linspace(-4, 4, 81, dtype=torch.float64, requires_grad=True)
    (want,) = torch.autograd.grad(by_hand.phi(x).sum(), x)
    assert torch.allclose(by_hand.slope(by_hand.phi(x)), want, rtol=1e-12)


def test_there_is_no_second_derivative():
    x = [t.requires_grad_() for t in inputs(10, 16)[:3]]
    centred_state = lambda *x: joined.attention(*x, None)  # noqa: E731
    for attention in (by_hand.attention, joined.attention, centred_state):
        (dq,) = torch.autograd.grad(attention(*x).square().sum(), x[0], create_graph=True)
        with pytest.raises(RuntimeError, match="differentiate twice"):
            dq.sum().backward()


# --- kernels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("N", [2, 64, 100, 300])
def test_kernels_are_right(N, dtype):
    q, k, v, do = inputs(N, 64, B=2, dtype=dtype)
    x = [t.requires_grad_() for t in (q, k, v)]
    o = joined.attention(*x)
    assert_close("o", o, truth(q, k, v)[0], TOLERANCE[dtype])
    got = torch.autograd.grad(o, x, do)
    assert_gradients(got, wanted(q, k, v, do), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mean", [0.0, 1.0, 3.0])
def test_centring_changes_no_gradient(mean, dtype):
    q, k, v, do = inputs(300, 64, 32 if dtype == torch.float32 else 64, dtype=dtype, mean=mean)
    state = joined.state_of(k, v)
    want = wanted(q, k, v, do)
    assert_gradients(joined.backward(q, k, v, state, do, centred), want, dtype)
    assert_gradients(joined.backward_centred(q, k, v, state, do), want, dtype)


def test_centring_saves_what_a_large_mean_takes():
    """In float16, which the interpreter has too, the mean has to be larger than in bfloat16."""
    q, k, v, do = inputs(300, 64, dtype=torch.float16, mean=8.0)
    state = joined.state_of(k, v)
    want = wanted(q, k, v, do)[0]
    plainly, inside, before = (
        relative_error(gradients[0], want)
        for gradients in (
            joined.backward(q, k, v, state, do),
            joined.backward(q, k, v, state, do, centred),
            joined.backward_centred(q, k, v, state, do),
        )
    )
    assert plainly > 0.01 and inside < plainly / 5 and before < plainly / 5


def test_a_centred_state_keeps_nothing_of_a_shift():
    _, k, v, _ = inputs(100)
    states = [joined.state_of(k, x) for x in (v, v + 5)]
    (one, c), (other, moved) = (joined.centre(s.double(), 32) for s in states)
    assert relative_error(one, other) < 1e-5
    assert torch.allclose(moved - c, torch.full_like(c, 5), rtol=1e-4)
    assert torch.equal(one[:, -32:], states[0][:, -32:].double())


@pytest.mark.parametrize("D, Dv", [(16, 64), (64, 16), (32, 32)])
def test_kernels_take_other_powers_of_two(D, Dv):
    q, k, v, do = inputs(70, D, Dv)
    got = joined.backward(q, k, v, joined.state_of(k, v), do)
    assert_gradients(got, wanted(q, k, v, do), q.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_saved_may_be_read_instead(dtype):
    q, k, v, do = inputs(100, 64, dtype=dtype)
    state = joined.state_of(k, v)
    o, denominator = saved_by_forward(q, k, v)
    got = joined.backward_saved(q, k, v, state, o, denominator, do)
    assert_gradients(got, wanted(q, k, v, do), dtype)


def saved_by_forward(q, k, v):
    fq, z = by_hand.phi(q.double()), by_hand.phi(k.double()).sum(-2, keepdim=True)
    denominator = (fq * z).sum(-1) + by_hand.EPS
    return by_hand.bidirectional(q.double(), k.double(), v.double()).to(
        q.dtype
    ), denominator.float()


def test_without_a_normalizer():
    q, k, v, do = inputs(100, 32, 16)
    got = joined.backward_plain(q, k, v, joined.state_of(k, v), do, scale=0.25)
    assert_gradients(got, wanted(q, k, v, do, normalize=False, scale=0.25), q.dtype)


def test_fault_the_missing_term():
    """o is right, dv is right, and dq and dk are those with d for a constant."""
    q, k, v, do = inputs(100)
    x = [t.requires_grad_() for t in (q, k, v)]
    o = joined.attention(*x, missing)
    assert_close("o", o, truth(q, k, v)[0], TOLERANCE[q.dtype])
    got = torch.autograd.grad(o, x, do)
    dropped = by_hand.bidirectional_gradients(*(t.double() for t in (q, k, v, do)), drop=True)
    assert_gradients(got, dropped, q.dtype)
    errors = [relative_error(a, b) for a, b in zip(got, wanted(q, k, v, do), strict=True)]
    assert errors[0] > 1 and errors[1] > 0.5 and errors[2] < TOLERANCE[q.dtype]


def fenced(x):
    return fences.fenced(x, 64, NAN)


def room(x):
    return fences.fenced(torch.full_like(x, NAN), 64, SENTINEL)


@pytest.mark.parametrize("module", [plain, normalized, centred, missing, saved])
def test_the_query_pass_stays_inside_its_tensors(module, monkeypatch):
    q, k, v, do = inputs(100)
    state = joined.state_of(k, v)
    o, denominator = (fenced(x) for x in saved_by_forward(q, k, v))
    more = {plain: {"scale": 1.0}, saved: {"o": o, "denominator": denominator}}
    rooms = []
    monkeypatch.setattr(joined.torch, "empty_like", lambda x: rooms.append(room(x)) or rooms[-1])
    dq, dstate = joined.queries(fenced(q), fenced(do), state, module,
                                **more.get(module, {"eps": 1e-6}))  # fmt: skip
    assert torch.isfinite(dq).all() and torch.isfinite(dstate).all()
    assert all((fences.fence(x) == SENTINEL).all() for x in rooms)


def test_the_key_pass_stays_inside_its_tensors(monkeypatch):
    _, k, v, _ = inputs(100)
    dstate = randn(2, 32 * 32 + 32)
    rooms = []
    monkeypatch.setattr(joined.torch, "empty_like", lambda x: rooms.append(room(x)) or rooms[-1])
    dk, dv = joined.keys_of(fenced(k), fenced(v), fenced(dstate))
    assert torch.isfinite(dk).all() and torch.isfinite(dv).all()
    assert len(rooms) == 2 and all((fences.fence(x) == SENTINEL).all() for x in rooms)


def test_two_runs_agree_to_the_last_bit():
    q, k, v, do = inputs(512)
    state = joined.state_of(k, v)
    first = joined.backward(q, k, v, state, do)
    again = joined.backward(q, k, v, state, do)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_nan_is_not_swallowed():
    q, k, v, do = inputs(64)
    do[0, 0, 5, 3] = NAN
    dq, dk, dv = joined.backward(q, k, v, joined.state_of(k, v), do)
    assert torch.isnan(dq[0, 0, 5]).all() and torch.isnan(dk[0, 0]).all()
    assert torch.isnan(dv[0, 0, :, 3]).all() and torch.isfinite(dv[0, 1]).all()


COMPILE = """
import json, sys
import ahead
import torch

arch, dtype = map(json.loads, sys.argv[1:])
compiled = ahead.instead_of_launching(arch)
from kernels.steps.backward import centred, joined, missing

x = torch.zeros(2, 2, 128, 64, dtype=getattr(torch, dtype))
state, d = torch.zeros(4, 64 * 64 + 64), torch.zeros(2, 2, 128)
joined.backward(x, x, x, state, x)
joined.backward(x, x, x, state, x, missing)
joined.backward(x, x, x, state, x, centred)
joined.backward_saved(x, x, x, state, x, d, x)
joined.backward_plain(x, x, x, state, x, 0.125)
print(json.dumps({name: kernel.metadata.shared for name, kernel in compiled.items()}))
"""


STEPS = {"plain", "normalized", "centred", "missing", "saved", "keys"}
COMPILED = {*(f"backward.{name}" for name in STEPS), "split"}  # which combines


@pytest.mark.parametrize("arch, dtype, limit", [(75, "float32", 64), (90, "bfloat16", 227)])
def test_they_compile_and_fit(arch, dtype, limit):
    """For a T4 and an H100, in a process without the interpreter; no GPU is needed."""
    shared = ahead.run(COMPILE, arch, dtype)
    assert ahead.modules(shared) == COMPILED
    assert max(shared.values()) <= limit * 1024
