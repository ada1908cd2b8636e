"""Causal means causal, to the last bit; and two runs agree to the last bit.

N is large enough that a head is cut into parts, and t falls on and beside the borders of chunks.
"""

import pytest
import torch
from oracle import qkv, randn, run, state_for

from kernels import linear_attention

both_ways = pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
N = 150


def changed_after(t, inputs, value):
    """Copies of [B, H, N, ...] tensors in which every token after t is another."""
    inputs = [x.clone() for x in inputs]
    for i, x in enumerate(inputs):
        rest = x[:, :, t + 1 :]
        rest.copy_(randn(*rest.shape, seed=99 + i) * value)
    return inputs


@pytest.mark.parametrize("t", [0, 1, 14, 15, 16, 31, 32, 63, 64, 100, 127, 128, 148])
def test_causal_does_not_see_the_future(operator, t):
    inputs = qkv(operator, H=1, N=N)
    before = operator(*inputs, causal=True)
    after = operator(*changed_after(t, inputs, 1), causal=True)
    assert torch.equal(before[:, :, : t + 1], after[:, :, : t + 1])
    assert not torch.equal(before[:, :, t + 1 :], after[:, :, t + 1 :])


@pytest.mark.parametrize("t", [10, 64])
@pytest.mark.parametrize("normalize", [True, False], ids=["normalized", "scaled"])
@pytest.mark.parametrize("feature_map", ["elu", "relu", "exp", "softmax", "identity"])
def test_causal_does_not_see_a_huge_future(operator, t, normalize, feature_map):
    inputs = qkv(operator, H=1, N=N)
    options = {"causal": True, "normalize": normalize, "feature_map": feature_map}
    before = operator(*inputs, **options)
    # φ overflows to inf in q and in k
    huge = changed_after(t, inputs, torch.finfo(operator.dtype).max / 8)
    after = operator(*huge, **options)
    assert torch.equal(before[:, :, : t + 1], after[:, :, : t + 1])


@pytest.mark.parametrize("t", [10, 64])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", ["q", "k"])
def test_causal_does_not_see_nan_in_future_queries_and_keys(operator, t, value, which):
    inputs = qkv(operator, H=1, N=N)
    before = operator(*inputs, causal=True)
    inputs["qk".index(which)][:, :, t + 1 :] = value
    after = operator(*inputs, causal=True)
    assert torch.equal(before[:, :, : t + 1], after[:, :, : t + 1])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_in_future_values_stays_in_its_chunk(operator, value):
    """The weight of a value yet to come is 0, and 0 · NaN is NaN, here as in softmax attention."""
    q, k, v = qkv(operator, H=1, N=N)
    before = operator(q, k, v, causal=True)
    v[:, :, 128:] = value
    after = operator(q, k, v, causal=True)
    assert torch.equal(before[:, :, :128], after[:, :, :128])


def test_causal_with_a_state_and_grouped_heads_does_not_see_the_future(operator):
    inputs = qkv(operator, H=4, Hk=2, N=90, Dv=20)
    options = {"causal": True, "enable_gqa": True}
    options["initial_state"] = state_for(operator, H=2, Dv=20)
    before = operator(*inputs, **options)
    after = operator(*changed_after(40, inputs, 1e4), **options)
    assert torch.equal(before[:, :, :41], after[:, :, :41])


def test_the_state_of_a_prefix_is_its_own(operator):
    """What a prefix hands on depends on its tokens only, wherever they lie."""
    inputs = qkv(operator, H=1, N=N)
    changed = changed_after(70, inputs, 1e4)
    _, before = operator(*(x[:, :, :71] for x in inputs), causal=True, return_state=True)
    _, after = operator(*(x[:, :, :71] for x in changed), causal=True, return_state=True)
    assert torch.equal(before.kv, after.kv) and torch.equal(before.z, after.z)


@pytest.mark.parametrize("t", [0, 15, 16, 70])
@pytest.mark.parametrize("normalize", [True, False], ids=["normalized", "scaled"])
def test_what_does_not_see_a_token_sends_it_no_gradient(operator, t, normalize):
    inputs = [x.requires_grad_() for x in qkv(operator, H=1, N=N)]
    o = operator(*inputs, causal=True, normalize=normalize)
    for grad in torch.autograd.grad(o[:, :, : t + 1].sum(), inputs):
        assert not grad[:, :, t + 1 :].any()
        assert grad[:, :, : t + 1].isfinite().all()


def test_bidirectional_sees_all_tokens(operator):
    inputs = qkv(operator, H=1, N=N)
    before = operator(*inputs)
    after = operator(*changed_after(100, inputs, 1))
    assert (before[:, :, :101] != after[:, :, :101]).any(-1).all()


@both_ways
@pytest.mark.parametrize("options", [{}, {"normalize": False}, {"feature_map": "softmax"}], ids=str)
def test_two_runs_agree_to_the_last_bit(operator, causal, options):
    def once():
        return run(
            linear_attention, *qkv(operator, Hk=1, N=N, Dv=20), state_for(operator, H=1, Dv=20),
            causal=causal, enable_gqa=True, return_state=True, **options,
        )  # fmt: skip

    first, second = once(), once()
    for name in first:
        assert torch.equal(first[name], second[name]), name
