"""Values that have a mean: their gradients are small differences of large sums.

What all values have in common cancels in dq and dk. If it is rounded first, nothing is left but the
rounding, while every output is right. The interpreter multiplies in float32 and rounds nothing:
here its products take of float16 inputs what tf32 takes, as on a GPU.
"""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from oracle import (
    DEVICE,
    GRADIENT,
    ON_GPU,
    TOLERANCE,
    Subject,
    agree,
    assert_close,
    qkv,
    randn,
    relative_error,
    state_for,
    truth,
)

from kernels import bidirectional, linear_attention

both_ways = pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
N, D = (8192, 64) if ON_GPU else (500, 16)
GRADIENTS = ("dq", "dk", "dv")
FLOAT32 = Subject("operator", linear_attention, torch.float32)


@pytest.fixture
def products_round(monkeypatch):
    """In the interpreter, tf32 takes of a float32 what the tensor cores do; they do it anyway."""
    if ON_GPU:
        return
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle, _ir

    exact = InterpreterBuilder.create_dot

    def taken(x):
        assert x.data.dtype == np.float32
        return TensorHandle((x.data.view(np.int32) & -8192).view(np.float32), x.dtype)

    def rounding(self, a, b, d, input_precision, imprecise):
        if input_precision == _ir.INPUT_PRECISION.TF32:
            a, b = taken(a), taken(b)
        return exact(self, a, b, d, input_precision, imprecise)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", rounding)


def allowed(dtype, mean, rows=N):
    """The gradients' tolerance, and what rounding to float32 does to sums of so many values."""
    return GRADIENT * TOLERANCE[dtype] + 2**-21 * mean * rows**0.5


def inputs(dtype, mean):
    """q, k, v, do [1, 1, N, D]; values of mean `mean` and keys that have one too."""
    q, k, v, do = (randn(1, 1, N, D, seed=i) for i in range(4))
    return [x.to(dtype) for x in (q, k + 0.5, v + mean, do)]


def gradients(function, q, k, v, do, causal):
    x = [t.clone().requires_grad_() for t in (q, k, v)]
    o = function(*x, causal=causal)
    return torch.autograd.grad(o, x, do.to(o.dtype))


@both_ways
@pytest.mark.parametrize("mean", [1, 5, 30] if ON_GPU else [1, 30])
def test_gradients_keep_what_is_left_of_the_values(operator, causal, mean, products_round):
    x = inputs(operator.dtype, mean)
    want = gradients(lambda *x, **o: truth(*x, **o)[0], *x, causal)
    for name, a, b in zip(GRADIENTS, gradients(operator, *x, causal), want, strict=True):
        assert_close(name, a, b.to(torch.float64), allowed(operator.dtype, mean))


@triton.jit
def none_of(st, z, OPERAND: tl.constexpr, PRECISION: tl.constexpr):
    return tl.sum(st, axis=1) * 0.0


@pytest.mark.skipif(ON_GPU, reason="a compiled kernel cannot be given another function")
@both_ways
def test_without_taking_out_the_mean_it_would_be_seen(causal, products_round, monkeypatch):
    """The comparison above finds the fault that it is there for."""
    monkeypatch.setattr(bidirectional, "mean_of", none_of)
    x = inputs(torch.float16, 30)
    want = gradients(lambda *x, **o: truth(*x, **o)[0], *x, causal)
    got = gradients(linear_attention, *x, causal)
    assert relative_error(got[0], want[0]) > 3 * allowed(torch.float16, 30)


# --- the algebra: exact for any c, in float32, whatever the denominators -------------------------


@both_ways
@pytest.mark.parametrize(
    "options",
    [
        {"eps": 3.0},  # not small against any denominator here
        {"eps": 0.0},
        {"feature_map": "relu"},
        {"feature_map": "exp"},
        {"feature_map": "softmax"},
        {"normalize": False},
    ],
    ids=lambda o: " ".join(f"{k} {x}" for k, x in o.items()),
)
def test_nothing_but_the_rounding_changes(causal, options):
    q, k, v = qkv(FLOAT32, N=70, D=24, Dv=20)
    agree(FLOAT32, q.abs() + 0.1, k.abs(), v + 4, causal=causal, **options)


@both_ways
def test_with_groups_states_and_tiles(causal):
    """A state goes in and its gradient comes out; 160 columns are more than one tile."""
    q, k, v = qkv(FLOAT32, H=4, Hk=2, N=90, Dv=160)
    state = state_for(FLOAT32, H=2, Dv=160)
    agree(FLOAT32, q, k, v + 4, state, causal=causal, enable_gqa=True)


@both_ways
def test_packed_sequences_have_means_of_their_own(causal):
    q, k, v = qkv(FLOAT32, N=120, Hk=1)
    ends = torch.tensor([0, 50, 50, 51, 120], dtype=torch.int32, device=DEVICE)
    v[:, :, :50] += 9
    v[:, :, 50:] -= 9
    state = state_for(FLOAT32, S=4, H=1)
    options = {"causal": causal, "cu_seqlens": ends, "enable_gqa": True}
    agree(FLOAT32, q, k, v, state, **options)


@both_ways
@pytest.mark.parametrize("keys", ["none", "of both signs"])
def test_sums_of_keys_that_weigh_no_mean(causal, keys):
    """No feature of any key is left, or z has both signs: then there is no mean to take out."""
    q, k, v = qkv(FLOAT32, N=60)
    if keys == "none":
        options = {"feature_map": "relu", "eps": 0.25}
        k = -k.abs() - 0.1
        state = None
    else:
        options = {"feature_map": "identity"}
        q = torch.cat([q.abs()[..., :8] + 0.5, 0.1 * q[..., 8:]], -1)
        k = torch.cat([k.abs()[..., :8] + 0.5, 0.1 * k[..., 8:]], -1)
        state = state_for(FLOAT32)
        state.z[..., -1] = -2.0
    agree(FLOAT32, q, k, v + 4, state, causal=causal, **options)


def test_queries_without_features_divide_by_eps():
    """φ(q) = 0: all of the gradient of φ(q) is what the mean was taken out of."""
    q, k, v = qkv(FLOAT32, N=60)
    q = q.abs() + 0.1
    q[:, :, 20:30] = 0
    for causal in (False, True):
        agree(FLOAT32, q, k.abs(), v + 4, causal=causal, feature_map="identity", eps=1.0)


@triton.jit
def mean_kernel(st, z, c, D: tl.constexpr, DV: tl.constexpr, PRECISION: tl.constexpr):
    d, dv = tl.arange(0, D), tl.arange(0, DV)
    b_st = tl.load(st + dv[:, None] * D + d[None, :])  # [DV, D]
    tl.store(c + dv, bidirectional.mean_of(b_st, tl.load(z + d), tl.float32, PRECISION))


def mean_of(st, z, precision="ieee"):
    c = torch.full((len(st),), float("nan"), device=DEVICE)
    mean_kernel[(1,)](st.contiguous(), z, c, z.numel(), len(st), precision)
    return c


def test_the_mean_that_leaves_least():
    z = randn(16, seed=1).abs() + 0.1
    want, rest = randn(32, seed=2), randn(32, 16, seed=3)
    rest -= (rest @ z / z.square().sum())[:, None] * z  # nothing of it along z
    for size in (1e-30, 1.0, 1e30):  # whose squares float32 cannot hold
        st = size * (want[:, None] * z + rest)
        assert_close("c", mean_of(st, size * z), want, 1e-5)
    taken = mean_of(st, size * z, "tf32")
    assert_close("c", taken, want, 2**-10)
    assert not (taken.view(torch.int32) % 8192).any()  # tf32 takes all of it


@pytest.mark.parametrize("z_last", [-0.5, float("nan"), float("inf")])
def test_no_mean_where_the_sum_of_keys_weighs_none(z_last):
    st, z = 1 + randn(32, 16, seed=1), 1 + randn(16, seed=2).abs()
    assert mean_of(st, z).any()
    assert not mean_of(st, 0 * z).any()
    z[-1] = z_last
    assert not mean_of(st, z).any()


def test_values_that_are_no_number_leave_other_means_alone():
    st, z = 1 + randn(32, 16, seed=1), 1 + randn(16, seed=2).abs()
    want = mean_of(st, z)
    st[3, 5], st[4, 5] = float("nan"), float("inf")
    want[3:5] = 0
    assert torch.equal(mean_of(st, z), want)


def test_nan_in_values_yet_to_come_spoils_no_gradient_before(operator):
    """The mean is that of all values, and so no number: nothing is taken out then."""
    q, k, v = qkv(operator, H=1, N=150)
    do = randn(*v.shape, dtype=operator.dtype, seed=5)
    do[:, :, 128:] = 0
    clean = gradients(operator, q, k, v, do, causal=True)[0]
    v[:, :, 140:] = float("nan")
    assert_close(
        "dq",
        gradients(operator, q, k, v, do, causal=True)[0][:, :, :128],
        clean[:, :, :128],
        GRADIENT * TOLERANCE[operator.dtype],
    )
