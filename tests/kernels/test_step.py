"""One token at a time: a chain of steps is causal attention."""

import pytest
import torch
from oracle import SUBJECTS, TOLERANCE, assert_close, qkv, state_for, truth

from kernels import LinearAttentionState, linear_attention, linear_attention_step

T = 12


def zero_state(subject, S=1, H=2, D=16, Dv=None):
    return LinearAttentionState(*(torch.zeros_like(x) for x in state_for(subject, S, H, D, Dv)))


def chain(q, k, v, state, **options):
    """Steps through all tokens of [B, H, N, D] tensors: (out [B, H, N, Dv], state)."""
    outs = []
    for t in range(q.shape[2]):
        o, state = linear_attention_step(q[:, :, t], k[:, :, t], v[:, :, t], state, **options)
        outs.append(o)
    return torch.stack(outs, dim=2), state


def check(operator, inputs, state, **options):
    allowed = TOLERANCE[operator.dtype]
    o, after = chain(*inputs, state, **options)
    want, kv, z = truth(
        *inputs, causal=True, initial_state=state,
        **{n: x for n, x in options.items() if n != "enable_gqa"},
    )  # fmt: skip
    assert o.dtype == operator.dtype and after.kv.dtype == after.z.dtype == torch.float32
    assert_close("o", o, want, allowed)
    assert_close("kv", after.kv, kv, allowed)
    assert_close("z", after.z, z, allowed)


@pytest.mark.parametrize("operator", [s for s in SUBJECTS if s.name == "operator"], ids=str)
@pytest.mark.parametrize("normalize", [True, False], ids=["normalized", "scaled"])
@pytest.mark.parametrize("feature_map", ["elu", "relu", "exp", "softmax", "identity"])
def test_a_chain_of_steps_is_causal_attention(operator, feature_map, normalize):
    q, k, v = qkv(operator, B=2, N=T)
    if feature_map in ("relu", "identity") and normalize:
        q, k = q.abs() + 0.1, k.abs() + 0.1
    state = zero_state(operator, S=2)
    check(operator, (q, k, v), state, feature_map=feature_map, normalize=normalize)


@pytest.mark.parametrize(
    "D, Dv", [(1, 1), (3, 16), (40, 64), (64, 100), (128, 200), (200, 128), (256, 256)]
)
def test_any_head_size(operator, D, Dv):
    check(operator, qkv(operator, N=3, D=D, Dv=Dv), state_for(operator, D=D, Dv=Dv))


@pytest.mark.parametrize("options", [{"scale": 0.3, "normalize": False}, {"eps": 2.0}], ids=str)
def test_scale_and_eps(operator, options):
    check(operator, qkv(operator, N=T), state_for(operator), **options)


@pytest.mark.parametrize("H, Hk", [(4, 1), (6, 3)])
def test_query_heads_may_share_key_heads(operator, H, Hk):
    inputs = qkv(operator, B=2, H=H, Hk=Hk, N=4)
    check(operator, inputs, state_for(operator, S=2, H=Hk), enable_gqa=True)


def test_a_callable_feature_map_may_change_the_number_of_features(operator):
    def feature_map(x):
        return torch.cat([x.relu(), (-x).relu()], dim=-1) + 0.1

    state = state_for(operator, D=32, Dv=16)
    check(operator, qkv(operator, N=4), state, feature_map=feature_map)


def test_any_strides(operator):
    q, k, v = qkv(operator, B=2, N=4, Dv=24)
    q, k, v = q.mT.contiguous().mT, k.transpose(0, 1).contiguous().transpose(0, 1), v
    kv, z = state_for(operator, S=2, Dv=24)
    state = LinearAttentionState(kv.mT.contiguous().mT, z.mT.contiguous().mT)
    check(operator, (q, k, v), state)


def test_it_takes_over_from_a_prefill(operator):
    q, k, v = qkv(operator, N=40)
    whole = linear_attention(q, k, v, causal=True)
    prompt = (x[:, :, :30] for x in (q, k, v))
    _, state = linear_attention(*prompt, causal=True, return_state=True)
    o, _ = chain(*(x[:, :, 30:] for x in (q, k, v)), state)
    assert_close("o", o, whole[:, :, 30:], 2 * TOLERANCE[operator.dtype])


def test_the_given_state_is_left_alone(operator):
    state = state_for(operator)
    kept = [x.clone() for x in state]
    _, new = chain(*qkv(operator, N=2), state)
    assert all(torch.equal(a, b) for a, b in zip(state, kept, strict=True))
    assert not torch.equal(new.kv, state.kv)


def test_gradients_flow_through_the_steps_and_the_state(operator):
    def gradients(function):
        inputs = [x.requires_grad_() for x in qkv(operator, N=T)]
        state = [x.requires_grad_() for x in state_for(operator)]
        o = function(*inputs, LinearAttentionState(*state))
        weights = torch.linspace(-1, 1, o.numel(), device=o.device).view_as(o).to(o.dtype)
        return torch.autograd.grad((o * weights).sum(), [*inputs, *state])

    stepped = gradients(lambda q, k, v, s: chain(q, k, v, s)[0])
    expected = gradients(lambda q, k, v, s: truth(q, k, v, causal=True, initial_state=s)[0])
    names = ["dq", "dk", "dv", "dstate.kv", "dstate.z"]
    for name, found, want in zip(names, stepped, expected, strict=True):
        assert_close(name, found, want, 3 * TOLERANCE[operator.dtype])


@pytest.mark.parametrize("B, H", [(0, 2), (2, 0)])
def test_no_batch_and_no_head(operator, B, H):
    inputs = (x[:, :, 0] for x in qkv(operator, B=B, H=H, N=1, Dv=7))
    o, state = linear_attention_step(*inputs, zero_state(operator, B, H, Dv=7))
    assert o.shape == (B, H, 7) and state.kv.shape == (B, H, 16, 7)
