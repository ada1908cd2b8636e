"""The three references: their derivatives by finite differences, and their dtypes.

That they are the definition is tested with the operator, in test_definition.py and the others.
"""

import pytest
import torch
from oracle import DEVICE, TOLERANCE, assert_close, qkv, state_for, truth
from test_definition import squared

from kernels.reference import chunked, quadratic, recurrent

forms = pytest.mark.parametrize("form", [quadratic, recurrent, chunked])
both_ways = pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
CU_SEQLENS = torch.tensor([0, 2, 2, 5], dtype=torch.int32, device=DEVICE)


class Double:
    dtype = torch.float64


@forms
@both_ways
@pytest.mark.parametrize("normalize", [True, False], ids=["normalized", "scaled"])
@pytest.mark.parametrize("feature_map", ["elu", "exp", "softmax", squared])
def test_derivatives(form, causal, normalize, feature_map):
    inputs = qkv(Double, H=2, Hk=1, N=5, D=3, Dv=2)
    state = state_for(Double, H=1, D=3, Dv=2)

    def function(q, k, v, kv, z):
        o, after = form(
            q, k, v, causal=causal, normalize=normalize, feature_map=feature_map,
            initial_state=(kv, z), return_state=True, enable_gqa=True,
        )  # fmt: skip
        return o, *after

    leaves = [x.requires_grad_() for x in (*inputs, *state)]
    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@forms
@both_ways
def test_derivatives_of_packed_sequences(form, causal):
    leaves = [x.requires_grad_() for x in qkv(Double, H=1, N=5, D=2)]
    assert torch.autograd.gradcheck(
        lambda *x: form(*x, causal=causal, cu_seqlens=CU_SEQLENS), leaves
    )


@pytest.mark.parametrize("chunk_size", [1, 7, 16, 50, 1000])
def test_the_chunk_size_changes_nothing(chunk_size):
    inputs = qkv(Double, N=50)
    want = truth(*inputs, causal=True)[0]
    o = chunked(*inputs, causal=True, chunk_size=chunk_size)
    assert_close("o", o, want, TOLERANCE[torch.float64])


@forms
@both_ways
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_computed_in_float32_and_rounded_once(form, causal, dtype):
    q, k, v = (x.to(dtype) for x in qkv(Double, N=60))
    o, state = form(q, k, v, causal=causal, return_state=True)
    want, kv, z = truth(q, k, v, causal=causal)
    rounding = max(torch.finfo(dtype).eps, 2e-6)  # eps is twice the largest error of one rounding
    assert o.dtype == dtype and state.kv.dtype == state.z.dtype == torch.float32
    assert_close("o", o, want, rounding)
    assert_close("kv", state.kv, kv, 2e-6)
    assert_close("z", state.z, z, 2e-6)


@forms
def test_wrong_arguments_are_refused_as_by_the_operator(form):
    q, k, v = qkv(Double)
    with pytest.raises(ValueError, match="feature_map must be one of elu"):
        form(q, k, v, feature_map="gelu")
    with pytest.raises(TypeError, match="int64"):
        form(q.long(), k.long(), v.long())
    with pytest.raises(ValueError, match=r"initial_state.kv .* features"):
        form(
            q, k, v, feature_map=lambda x: torch.cat([x, x], -1).abs(),
            initial_state=state_for(Double),
        )  # fmt: skip
