"""The state: what came before (causal), or what to add (bidirectional), and what is handed on."""

import pytest
import torch
from oracle import TOLERANCE, agree, assert_close, qkv, run, state_for, truth

from kernels import LinearAttentionState

both_ways = pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])


@both_ways
@pytest.mark.parametrize("normalize", [True, False], ids=["normalized", "scaled"])
@pytest.mark.parametrize("N, D, Dv", [(1, 16, 16), (50, 16, 16), (150, 16, 24), (40, 40, 200)])
def test_an_initial_state_counts_and_gets_a_gradient(every, causal, normalize, N, D, Dv):
    state = state_for(every, S=2, D=D, Dv=Dv)
    inputs = qkv(every, B=2, N=N, D=D, Dv=Dv)
    agree(every, *inputs, state, causal=causal, normalize=normalize)


@both_ways
def test_grouped_heads_have_the_state_of_their_key_head(subject, causal):
    inputs = qkv(subject, H=6, Hk=2, N=40, Dv=20)
    agree(subject, *inputs, state_for(subject, H=2, Dv=20), causal=causal, enable_gqa=True)


def doubled_features(x):
    return torch.cat([x.relu(), (-x).relu()], dim=-1) + 0.1


@both_ways
def test_a_callable_feature_map_gives_the_state_its_number_of_features(subject, causal):
    state = state_for(subject, D=32, Dv=16)
    agree(subject, *qkv(subject), state, causal=causal, feature_map=doubled_features)


@both_ways
@pytest.mark.parametrize("only", ["o", "kv", "z"])
def test_a_gradient_may_come_through_one_output_only(precise, causal, only):
    """The others hand back None, which is not the zeros that a kernel would read."""

    def through(function):
        state = [x.detach().clone().requires_grad_() for x in state_for(precise)]
        inputs = [x.detach().requires_grad_() for x in qkv(precise)]
        options = {} if function is truth else {"return_state": True}
        out = function(*inputs, causal=causal, initial_state=tuple(state), **options)
        o, kv, z = out if len(out) == 3 else (out[0], *out[1])
        loss = {"o": o, "kv": kv, "z": z}[only].square().sum()
        leaves = [*inputs, *state]
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        return [torch.zeros_like(x) if g is None else g for g, x in zip(grads, leaves, strict=True)]

    names = ["dq", "dk", "dv", "dinitial_state.kv", "dinitial_state.z"]
    for name, found, want in zip(names, through(precise), through(truth), strict=True):
        assert_close(name, found, want, 3 * TOLERANCE[precise.dtype])


@pytest.mark.parametrize("cut", [1, 37, 64, 99])
@pytest.mark.parametrize("normalize", [True, False], ids=["normalized", "scaled"])
def test_causal_halves_chained_by_the_state_are_the_whole(subject, cut, normalize):
    q, k, v = (x.requires_grad_() for x in qkv(subject, N=100))

    def part(rows, state):
        return subject(
            q[:, :, rows], k[:, :, rows], v[:, :, rows],
            causal=True, normalize=normalize, initial_state=state, return_state=True,
        )  # fmt: skip

    whole, state = part(slice(None), None)
    first, middle = part(slice(0, cut), None)
    second, last = part(slice(cut, None), middle)
    chained = torch.cat([first, second], dim=2)
    allowed = 2 * TOLERANCE[subject.dtype]
    assert_close("o", chained, whole, allowed)
    assert_close("kv", last.kv, state.kv, allowed)
    assert_close("z", last.z, state.z, allowed)
    # the gradient of the second half reaches the first half's keys through the state
    weights = torch.linspace(-1, 1, whole.numel(), device=q.device).view_as(whole)
    a = torch.autograd.grad((whole * weights).sum(), [q, k, v])
    b = torch.autograd.grad((chained * weights).sum(), [q, k, v])
    for name, x, y in zip(["dq", "dk", "dv"], b, a, strict=True):
        assert_close(name, x, y, 3 * allowed)


def test_bidirectional_states_of_two_sets_of_keys_add_up(subject):
    q, k, v = qkv(subject, N=30, M=80)
    whole, state = subject(q, k, v, return_state=True)
    _, first = subject(q, k[:, :, :33], v[:, :, :33], return_state=True)
    o, both = subject(q, k[:, :, 33:], v[:, :, 33:], initial_state=first, return_state=True)
    allowed = 2 * TOLERANCE[subject.dtype]
    assert_close("o", o, whole, allowed)
    assert_close("kv", both.kv, state.kv, allowed)
    assert_close("z", both.z, state.z, allowed)


def test_no_new_key_leaves_the_state_as_it_was(subject):
    state = state_for(subject)
    o, after = subject(*qkv(subject, N=6, M=0), initial_state=state, return_state=True)
    assert torch.equal(after.kv, state.kv) and torch.equal(after.z, state.z)
    assert o.any()


@both_ways
def test_a_zero_state_changes_nothing(operator, causal):
    inputs = qkv(operator, N=70)
    state = LinearAttentionState(*(torch.zeros_like(x) for x in state_for(operator)))
    plain = run(operator, *inputs, causal=causal, return_state=True)
    zeros = run(operator, *inputs, state, causal=causal, return_state=True)
    for name, want in plain.items():
        assert_close(name, zeros[name], want, 1e-6 if want.dtype == torch.float32 else 1e-3)


@both_ways
def test_the_given_state_is_left_alone(operator, causal):
    state = state_for(operator)
    kept = [x.clone() for x in state]
    out, new = operator(*qkv(operator), causal=causal, initial_state=state, return_state=True)
    new.kv.fill_(0), new.z.fill_(0), out.fill_(0)
    assert all(torch.equal(a, b) for a, b in zip(state, kept, strict=True))


@both_ways
def test_the_result_without_the_state_is_the_same_tensor_alone(operator, causal):
    inputs = qkv(operator)
    with_state = operator(*inputs, causal=causal, return_state=True)
    assert isinstance(with_state[1], LinearAttentionState)
    alone = operator(*inputs, causal=causal)
    assert isinstance(alone, torch.Tensor) and torch.equal(alone, with_state[0])


@both_ways
def test_a_plain_pair_is_a_state_too(operator, causal):
    inputs, state = qkv(operator), state_for(operator)
    named = operator(*inputs, causal=causal, initial_state=state)
    assert torch.equal(named, operator(*inputs, causal=causal, initial_state=tuple(state)))
