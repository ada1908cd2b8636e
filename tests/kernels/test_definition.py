"""The operator and its references are the definition of linear attention, with its gradients."""

import pytest
import torch
from oracle import ON_GPU, agree, qkv, randn, run, state_for, truth

LENGTHS = [1, 2, 15, 16, 17, 63, 64, 65, 129, 160, 200] + ([1023, 4096, 5001] if ON_GPU else [])
MAPS = ["elu", "relu", "exp", "softmax", "identity"]
SIZES = [  # (D, Dv)
    (1, 1),
    (3, 16),
    (16, 3),
    (40, 64),
    (64, 40),
    (1, 200),
    (100, 128),
    (128, 100),
    (200, 1),
    (256, 200),
    (128, 256),
    (256, 256),
]


def both_ways(function):
    return pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])(
        function
    )


@both_ways
@pytest.mark.parametrize("N", LENGTHS)
def test_any_length(every, causal, N):
    # with one key the true gradient of q is eps times what its two terms are: a small eps would
    # leave a difference that cancels, of which half precision keeps nothing
    agree(every, *qkv(every, N=N), causal=causal, eps=50.0)


@both_ways
@pytest.mark.parametrize("D, Dv", SIZES)
def test_any_head_size(subject, causal, D, Dv):
    # with one feature a normalized output does not depend on q: the true gradient cancels
    wrt = ["k", "v"] if D == 1 else None
    inputs = qkv(subject, H=1, N=37, D=D, Dv=Dv)
    agree(subject, *inputs, causal=causal, wrt=wrt, do_mean=1.0 if D == 1 else 0.0)


@both_ways
@pytest.mark.parametrize("D, Dv", [(64, 64), (128, 128), (32, 256), (256, 64)])
def test_whole_tiles_without_a_mask(subject, causal, D, Dv):
    agree(subject, *qkv(subject, H=1, N=64, D=D, Dv=Dv), causal=causal)


@both_ways
@pytest.mark.parametrize("D, Dv", [(1, 1), (1, 40), (3, 5)])
def test_few_features_without_normalization(subject, causal, D, Dv):
    agree(subject, *qkv(subject, H=1, N=37, D=D, Dv=Dv), causal=causal, normalize=False)


@both_ways
@pytest.mark.parametrize("normalize", [True, False], ids=["normalized", "scaled"])
@pytest.mark.parametrize("feature_map", MAPS)
def test_any_feature_map(every, causal, feature_map, normalize):
    q, k, v = qkv(every, N=70, D=24)
    if feature_map in ("relu", "identity") and normalize:
        # denominators near zero make the function itself ill-conditioned
        q, k = q.abs() + 0.1, k.abs() + 0.1
    agree(every, q, k, v, causal=causal, feature_map=feature_map, normalize=normalize)


def squared(x):
    return x * x + 0.1


def doubled_features(x):
    return torch.cat([x.relu(), (-x).relu()], dim=-1) + 0.1


@both_ways
@pytest.mark.parametrize("normalize", [True, False], ids=["normalized", "scaled"])
@pytest.mark.parametrize("feature_map", [squared, doubled_features])
def test_a_callable_feature_map_may_change_the_number_of_features(
    subject, causal, feature_map, normalize
):
    agree(subject, *qkv(subject), causal=causal, feature_map=feature_map, normalize=normalize)


def test_a_feature_map_with_parameters_gets_their_gradients(precise):
    q, k, v = qkv(precise)
    weight = randn(16, 24, dtype=precise.dtype, seed=5).requires_grad_()
    expected = weight.detach().double().requires_grad_()
    out = precise(q, k, v, causal=True, feature_map=lambda x: torch.exp(x @ weight * 0.1))
    want = truth(q, k, v, causal=True, feature_map=lambda x: torch.exp(x @ expected * 0.1))[0]
    out.square().sum().backward()
    want.square().sum().backward()
    assert torch.linalg.norm(weight.grad - expected.grad) < 6e-5 * torch.linalg.norm(expected.grad)


@both_ways
@pytest.mark.parametrize("scale", [None, 1, 0.5, -2.0, 0.0])
def test_scale_multiplies_what_is_not_normalized(subject, causal, scale):
    agree(subject, *qkv(subject), causal=causal, normalize=False, scale=scale)


@both_ways
def test_scale_cancels_when_normalized(operator, causal):
    inputs = qkv(operator)
    plain = run(operator, *inputs, causal=causal, return_state=True)
    scaled = run(operator, *inputs, causal=causal, scale=7.0, return_state=True)
    assert all(torch.equal(plain[name], scaled[name]) for name in plain)


@both_ways
@pytest.mark.parametrize("eps", [0, 1e-6, 1.0, 100])
def test_eps_is_added_to_the_denominator(subject, causal, eps):
    agree(subject, *qkv(subject, N=20), causal=causal, eps=eps)


@pytest.mark.parametrize("N, M", [(1, 50), (50, 1), (17, 130), (130, 17), (64, 65)])
@pytest.mark.parametrize("normalize", [True, False], ids=["normalized", "scaled"])
def test_queries_and_keys_may_differ_in_number(subject, N, M, normalize):
    # eps as in test_any_length
    agree(subject, *qkv(subject, N=N, M=M), normalize=normalize, eps=50.0)


@both_ways
@pytest.mark.parametrize("B, H, Hk", [(1, 4, 1), (2, 4, 2), (2, 6, 3), (1, 3, 3)])
@pytest.mark.parametrize("normalize", [True, False], ids=["normalized", "scaled"])
def test_query_heads_may_share_key_heads(subject, causal, B, H, Hk, normalize):
    inputs = qkv(subject, B=B, H=H, Hk=Hk, N=40)
    agree(subject, *inputs, causal=causal, normalize=normalize, enable_gqa=True)


@both_ways
def test_many_heads_and_batches(precise, causal):
    agree(precise, *qkv(precise, B=3, H=5, N=33, D=8), causal=causal)


@both_ways
def test_shared_heads_with_wide_values(precise, causal):
    """More than one tile of values and more than one query head: two sums, one after the other."""
    inputs = qkv(precise, H=4, Hk=2, N=40, D=16, Dv=200)
    agree(precise, *inputs, causal=causal, enable_gqa=True)


@pytest.mark.parametrize("N", [0, 5])
@pytest.mark.parametrize("normalize", [True, False], ids=["normalized", "scaled"])
def test_no_key_gives_zero(subject, N, normalize):
    q, k, v = (x.requires_grad_() for x in qkv(subject, B=2, N=N, M=0, Dv=7))
    o, (kv, z) = subject(q, k, v, normalize=normalize, return_state=True)
    assert o.shape == (2, 2, N, 7) and not o.any()
    assert kv.shape == (2, 2, 16, 7) and not kv.any()
    assert z.shape == (2, 2, 16) and not z.any()
    (o.sum() + kv.sum() + z.sum()).backward()
    assert q.grad.shape == q.shape and not q.grad.any()
    assert all(x.grad is None or x.grad.shape == x.shape for x in (k, v))


def test_no_query_still_gives_the_state(subject):
    agree(subject, *qkv(subject, N=0, M=20))


@both_ways
@pytest.mark.parametrize("B, H", [(0, 2), (2, 0), (0, 0)])
def test_no_batch_and_no_head(subject, causal, B, H):
    q, k, v = qkv(subject, B=B, H=H, N=5, Dv=7)
    o, (kv, z) = subject(q, k, v, causal=causal, return_state=True)
    assert o.shape == (B, H, 5, 7) and o.dtype == subject.dtype
    assert kv.shape == (B, H, 16, 7) and z.shape == (B, H, 16)


@both_ways
@pytest.mark.parametrize("wrt", [["q"], ["k"], ["v"], ["q", "v"], ["initial_state.z"]])
def test_a_gradient_may_be_asked_of_some_inputs_only(precise, causal, wrt):
    state = state_for(precise) if "initial_state.z" in wrt else None
    agree(precise, *qkv(precise), state, wrt=wrt, causal=causal)


@both_ways
def test_no_gradient_no_graph(operator, causal):
    q, k, v = (x.requires_grad_() for x in qkv(operator))
    with torch.no_grad():
        assert not operator(q, k, v, causal=causal).requires_grad
    assert not operator(q.detach(), k.detach(), v.detach(), causal=causal).requires_grad
    assert operator(q.detach(), k.detach(), v, causal=causal).requires_grad


@both_ways
def test_a_second_derivative_is_right_or_refused_but_never_silently_zero(precise, causal):
    q, k, v = qkv(precise, N=9, D=4)

    def second(function):
        x = q.detach().requires_grad_()
        o = function(x, k, v, causal=causal)
        o = o[0] if isinstance(o, tuple) else o
        (first,) = torch.autograd.grad(o.square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    try:
        found = second(precise)
    except RuntimeError as refusal:
        # the references are made of differentiable operations
        assert precise.name == "operator" and "second derivative" in str(refusal)
        return
    expected = second(truth)
    assert torch.linalg.norm(found - expected) < 1e-4 * torch.linalg.norm(expected)
