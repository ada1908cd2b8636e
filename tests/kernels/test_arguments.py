"""Bad input is refused before anything runs: which argument, what came, what is allowed."""

import fractions
import re

import pytest
import torch
from oracle import DEVICE

from kernels import LinearAttentionState, linear_attention, linear_attention_step


def x(*shape, **kind):
    return torch.ones(shape, **{"device": DEVICE} | kind)


def ints(*values, **kind):
    return torch.tensor(values, **{"dtype": torch.int32, "device": DEVICE} | kind)


def state(S=2, H=4, D=16, Dv=24, **kind):
    return LinearAttentionState(x(S, H, D, Dv, **kind), x(S, H, D, **kind))


def twice(x):
    return torch.cat([x, x], dim=-1)


# arguments that differ from good ones, what is raised, and what its message must name
BAD = {
    "q is no tensor": (
        {"q": [1.0]}, TypeError, ["q must be a tensor", "list"]),
    "v is None": (
        {"v": None}, TypeError, ["v must be a tensor", "NoneType"]),
    "k has three dimensions": (
        {"k": x(4, 10, 16)},
        ValueError, ["k must have 4 dimensions", "[B, H, N, D]", "(4, 10, 16)"]),
    "float64": (
        {n: x(2, 4, 10, 16, dtype=torch.float64) for n in "qkv"},
        TypeError, ["q must be one of float16, bfloat16, float32", "float64"]),
    "integers": (
        {"k": x(2, 4, 10, 16, dtype=torch.int64)}, TypeError, ["k must be one of", "int64"]),
    "complex": (
        {"v": x(2, 4, 10, 16, dtype=torch.complex64)},
        TypeError, ["v must be one of", "complex64"]),
    "dtypes differ": (
        {"v": x(2, 4, 10, 24, dtype=torch.float16)},
        TypeError, ["q and v must have the same dtype", "float32", "float16"]),
    "sparse": (
        {"k": x(2, 4, 10, 16).to_sparse()}, TypeError, ["k must be a dense tensor", "sparse_coo"]),
    "nested": (
        {"q": torch.nested.nested_tensor([x(4, 9, 16), x(4, 10, 16)], layout=torch.strided)},
        TypeError, ["q must be a dense tensor", "nested"]),
    "devices differ": (
        {"k": x(2, 4, 10, 16, device="meta")},
        ValueError, ["q and k must be on the same device", DEVICE, "meta"]),
    "D is 0": (
        {"q": x(2, 4, 10, 0), "k": x(2, 4, 10, 0)},
        ValueError, ["last dimension of q must be 1 to 256", "not 0"]),
    "D is 257": (
        {"q": x(2, 4, 10, 257), "k": x(2, 4, 10, 257)},
        ValueError, ["last dimension of q must be 1 to 256", "not 257"]),
    "Dv is 0": (
        {"v": x(2, 4, 10, 0)}, ValueError, ["last dimension of v must be 1 to 256", "not 0"]),
    "Dv is 512": (
        {"v": x(2, 4, 10, 512)}, ValueError, ["last dimension of v must be 1 to 256", "not 512"]),
    "batches differ": (
        {"k": x(1, 4, 10, 16)}, ValueError, ["q, k and v", "batch", "2, 1 and 2"]),
    "lengths of k and v differ": (
        {"v": x(2, 4, 11, 24)}, ValueError, ["k and v", "length", "10", "11"]),
    "lengths of q and k differ when causal": (
        {"q": x(2, 4, 9, 16), "causal": True}, ValueError, ["causal", "9", "10"]),
    "D of q and k differ": (
        {"q": x(2, 4, 10, 8)}, ValueError, ["q and k", "last dimension", "8", "16"]),
    "heads of k and v differ": (
        {"v": x(2, 2, 10, 24)}, ValueError, ["k and v", "heads", "4", "2"]),
    "fewer key heads without enable_gqa": (
        {"k": x(2, 2, 10, 16), "v": x(2, 2, 10, 24)},
        ValueError, ["q has 4 heads", "2", "enable_gqa=True"]),
    "key heads that do not divide": (
        {"k": x(2, 3, 10, 16), "v": x(2, 3, 10, 24), "enable_gqa": True},
        ValueError, ["enable_gqa", "4", "3"]),
    "more key heads than query heads": (
        {"k": x(2, 8, 10, 16), "v": x(2, 8, 10, 24), "enable_gqa": True},
        ValueError, ["enable_gqa", "4", "8"]),
    "no key head": (
        {"k": x(2, 0, 10, 16), "v": x(2, 0, 10, 24), "enable_gqa": True},
        ValueError, ["enable_gqa", "4", "0"]),
    "causal is a number": (
        {"causal": 1}, TypeError, ["causal must be True or False", "1", "int"]),
    "normalize is None": (
        {"normalize": None}, TypeError, ["normalize must be True or False", "NoneType"]),
    "return_state is a string": (
        {"return_state": "yes"}, TypeError, ["return_state must be True or False", "yes"]),
    "enable_gqa is a tensor": (
        {"enable_gqa": x(1)}, TypeError, ["enable_gqa must be True or False", "Tensor"]),
    "no such feature map": (
        {"feature_map": "gelu"},
        ValueError, ["feature_map", "elu, relu, exp, softmax, identity", "callable", "gelu"]),
    "the feature map is no name and no callable": (
        {"feature_map": 3}, TypeError, ["feature_map must be a name or a callable", "int"]),
    "the feature map is None": (
        {"feature_map": None}, TypeError, ["feature_map", "NoneType"]),
    "the feature map returns no tensor": (
        {"feature_map": lambda x: 1}, TypeError, ["feature_map(q) must return a tensor", "int"]),
    "the feature map returns a sparse tensor": (
        {"feature_map": lambda x: x.to_sparse()},
        TypeError, ["feature_map(q) must be a dense tensor", "sparse_coo"]),
    "the feature map returns integers": (
        {"feature_map": lambda x: x.long()}, TypeError, ["feature_map(q)", "floating", "int64"]),
    "the feature map moves to another device": (
        {"feature_map": lambda x: x.to("meta")}, ValueError, ["feature_map(q)", DEVICE, "meta"]),
    "the feature map drops a dimension": (
        {"feature_map": lambda x: x.sum(-1)},
        ValueError, ["feature_map(q)", "last dimension only", "(2, 4, 10)"]),
    "the feature map gives too many features": (
        {"feature_map": lambda x: x.repeat(1, 1, 1, 17)},
        ValueError, ["feature_map(q)", "1 to 256", "272"]),
    "the feature map gives the keys another number": (
        {"q": x(2, 4, 9, 16), "feature_map": lambda x: x if x.shape[2] == 9 else twice(x)},
        ValueError, ["feature_map", "q and k", "16", "32"]),
    "scale is a string": (
        {"scale": "1"}, TypeError, ["scale must be None or a number", "str"]),
    "scale is a tensor": (
        {"scale": x(1)}, TypeError, ["scale must be None or a number", "Tensor"]),
    "scale is a list": (
        {"scale": [1.0]}, TypeError, ["scale must be None or a number", "list"]),
    "eps is a list": (
        {"eps": [1e-6]}, TypeError, ["eps must be a number", "list"]),
    "scale is NaN": (
        {"scale": float("nan")}, ValueError, ["scale must be finite", "nan"]),
    "scale is beyond float32": (
        {"scale": -1e39}, ValueError, ["scale must be finite in float32", "-1e+39"]),
    "scale is beyond any float": (
        {"scale": 10**400}, ValueError, ["scale must be finite in float32"]),
    "eps is beyond float32": (
        {"eps": 1e39}, ValueError, ["eps must be finite", "float32", "1e+39"]),
    "eps is None": (
        {"eps": None}, TypeError, ["eps must be a number", "NoneType"]),
    "eps is negative": (
        {"eps": -1e-6}, ValueError, ["eps must be finite and at least 0", "-1e-06"]),
    "eps is infinite": (
        {"eps": float("inf")}, ValueError, ["eps must be finite", "inf"]),
    "the state is one tensor": (
        {"initial_state": state()[0]},
        TypeError, ["initial_state must be a LinearAttentionState", "Tensor"]),
    "the state has three parts": (
        {"initial_state": (*state(), 1)}, TypeError, ["initial_state must be", "tuple"]),
    "the state's kv is no tensor": (
        {"initial_state": (1, x(2, 4, 16))},
        TypeError, ["initial_state.kv must be a tensor", "int"]),
    "the state's z is no tensor": (
        {"initial_state": (x(2, 4, 16, 24), None)},
        TypeError, ["initial_state.z must be a tensor", "NoneType"]),
    "the state is float16": (
        {"initial_state": state(dtype=torch.float16)},
        TypeError, ["initial_state.kv must be float32", "float16"]),
    "the state is sparse": (
        {"initial_state": (x(2, 4, 16, 24), x(2, 4, 16).to_sparse())},
        TypeError, ["initial_state.z must be a dense tensor", "sparse_coo"]),
    "the state is elsewhere": (
        {"initial_state": state(device="meta")},
        ValueError, ["initial_state.kv must be on", DEVICE, "meta"]),
    "the state's kv is transposed": (
        {"initial_state": (x(2, 4, 24, 16), x(2, 4, 16))},
        ValueError, ["initial_state.kv must have shape (2, 4, 16, 24)", "(2, 4, 24, 16)"]),
    "the state's z has a dimension too many": (
        {"initial_state": (x(2, 4, 16, 24), x(2, 4, 16, 1))},
        ValueError, ["initial_state.z must have shape (2, 4, 16)", "(2, 4, 16, 1)"]),
    "the state has the batch of another": (
        {"initial_state": state(S=1)},
        ValueError, ["initial_state.kv must have shape (2, 4, 16, 24)", "(1, 4, 16, 24)"]),
    "the state has the query heads": (
        {"k": x(2, 2, 10, 16), "v": x(2, 2, 10, 24), "enable_gqa": True, "initial_state": state()},
        ValueError, ["initial_state.kv must have shape (2, 2, 16, 24)", "(2, 4, 16, 24)"]),
    "the state has not the callable's features": (
        {"feature_map": twice, "initial_state": state()},
        ValueError, ["initial_state.kv", "features", "32", "16"]),
    "the state's parts differ in features": (
        {"feature_map": twice, "initial_state": (x(2, 4, 32, 24), x(2, 4, 16))},
        ValueError, ["initial_state.kv and initial_state.z", "32", "16"]),
}  # fmt: skip

PACKED = {
    "cu_seqlens is a list": (
        {"cu_seqlens": [0, 10]}, TypeError, ["cu_seqlens must be a tensor", "list"]),
    "cu_seqlens is int64": (
        {"cu_seqlens": ints(0, 10, dtype=torch.int64)},
        TypeError, ["cu_seqlens must be int32", "int64"]),
    "cu_seqlens is sparse": (
        {"cu_seqlens": ints(0, 10).to_sparse()},
        TypeError, ["cu_seqlens must be a dense tensor", "sparse_coo"]),
    "cu_seqlens is two-dimensional": (
        {"cu_seqlens": ints([0, 10])},
        ValueError, ["cu_seqlens must have shape [S + 1]", "(1, 2)"]),
    "cu_seqlens has no sequence": (
        {"cu_seqlens": ints(0)}, ValueError, ["cu_seqlens", "at least 1", "(1,)"]),
    "cu_seqlens is elsewhere": (
        {"cu_seqlens": ints(0, 10, device="meta")},
        ValueError, ["cu_seqlens must be on", DEVICE, "meta"]),
    "cu_seqlens starts late": (
        {"cu_seqlens": ints(1, 10)}, ValueError, ["cu_seqlens must rise from 0", "10", "[1, 10]"]),
    "cu_seqlens ends early": (
        {"cu_seqlens": ints(0, 9)}, ValueError, ["cu_seqlens must rise from 0", "10", "[0, 9]"]),
    "cu_seqlens ends late": (
        {"cu_seqlens": ints(0, 11)}, ValueError, ["cu_seqlens must rise from 0", "10", "[0, 11]"]),
    "cu_seqlens falls": (
        {"cu_seqlens": ints(0, 7, 3, 10)}, ValueError, ["cu_seqlens must rise", "[0, 7, 3, 10]"]),
    "cu_seqlens with a batch of two": (
        {n: x(2, 4, 10, 16) for n in "qkv"}, ValueError, ["cu_seqlens", "B must be 1", "2"]),
    "cu_seqlens with fewer queries": (
        {"q": x(1, 4, 9, 16)}, ValueError, ["cu_seqlens", "9", "10"]),
    "cu_seqlens with a state for the batch": (
        {"initial_state": state(S=1)},
        ValueError, ["initial_state.kv must have shape (2, 4, 16, 24)", "(1, 4, 16, 24)"]),
}  # fmt: skip

STEP = {
    "q has four dimensions": (
        {"q": x(2, 4, 1, 16)}, ValueError, ["q must have 3 dimensions", "(2, 4, 1, 16)"]),
    "no state": (
        {"state": None}, TypeError, ["state must be a LinearAttentionState", "NoneType"]),
    "the state is of another shape": (
        {"state": state(Dv=16)},
        ValueError, ["state.kv must have shape (2, 4, 16, 24)", "(2, 4, 16, 16)"]),
    "the state is bfloat16": (
        {"state": state(dtype=torch.bfloat16)},
        TypeError, ["state.kv must be float32", "bfloat16"]),
    "the state has not the callable's features": (
        {"feature_map": twice}, ValueError, ["state.kv", "features", "32", "16"]),
    "dtypes differ": (
        {"k": x(2, 4, 16, dtype=torch.float16)},
        TypeError, ["q and k must have the same dtype", "float32", "float16"]),
    "fewer key heads without enable_gqa": (
        {"k": x(2, 2, 16), "v": x(2, 2, 24)},
        ValueError, ["q has 4 heads", "2", "enable_gqa=True"]),
    "no such feature map": (
        {"feature_map": "gelu"}, ValueError, ["feature_map", "elu, relu", "gelu"]),
    "normalize is a number": (
        {"normalize": 0}, TypeError, ["normalize must be True or False", "int"]),
    "eps is negative": (
        {"eps": -1.0}, ValueError, ["eps must be finite and at least 0", "-1.0"]),
    "scale is infinite": (
        {"scale": float("inf")}, ValueError, ["scale must be finite", "inf"]),
}  # fmt: skip


def refused(function, arguments, error, words):
    q, k, v = (arguments.pop(name) for name in "qkv")
    with pytest.raises(error) as raised:
        function(q, k, v, **arguments)
    message = str(raised.value)
    assert type(raised.value) is error
    # a number must stand alone: "4" is not in "float64"
    missing = [w for w in words if not re.search(rf"(?<!\w){re.escape(w)}(?!\w)", message)]
    assert not missing, f"{missing} not in: {message}"


@pytest.mark.parametrize("change, error, words", BAD.values(), ids=BAD)
def test_linear_attention_refuses(change, error, words):
    good = {"q": x(2, 4, 10, 16), "k": x(2, 4, 10, 16), "v": x(2, 4, 10, 24)}
    linear_attention(**good)
    refused(linear_attention, good | change, error, words)


@pytest.mark.parametrize("change, error, words", PACKED.values(), ids=PACKED)
def test_packed_linear_attention_refuses(change, error, words):
    good = {"q": x(1, 4, 10, 16), "k": x(1, 4, 10, 16), "v": x(1, 4, 10, 24)}
    good |= {"cu_seqlens": ints(0, 3, 10)}
    linear_attention(**good)
    refused(linear_attention, good | change, error, words)


@pytest.mark.parametrize("change, error, words", STEP.values(), ids=STEP)
def test_linear_attention_step_refuses(change, error, words):
    good = {"q": x(2, 4, 16), "k": x(2, 4, 16), "v": x(2, 4, 24), "state": state()}
    linear_attention_step(**good)
    refused(linear_attention_step, good | change, error, words)


def test_options_go_by_name():
    with pytest.raises(TypeError, match="positional"):
        linear_attention(x(1, 1, 4, 8), x(1, 1, 4, 8), x(1, 1, 4, 8), True)
    with pytest.raises(TypeError, match="is_causal"):
        linear_attention(x(1, 1, 4, 8), x(1, 1, 4, 8), x(1, 1, 4, 8), is_causal=True)


def test_numbers_may_be_of_any_real_type():
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    inputs = [x(1, 1, 4, 8)] * 3
    want = linear_attention(*inputs, normalize=False, scale=0.5, eps=0.0)
    for scale in (numpy.float32(0.5), numpy.float64(0.5), fractions.Fraction(1, 2)):
        assert torch.equal(want, linear_attention(*inputs, normalize=False, scale=scale, eps=0))


def test_a_call_that_was_right_lets_no_wrong_one_pass():
    """What was checked once is not checked again; 1 equals True, and yet is no bool."""
    good = {n: x(1, 2, 8, 16) for n in "qkv"}
    for _ in range(2):
        linear_attention(**good, causal=True, eps=1.0)
    for wrong in ({"causal": 1}, {"eps": True}, {"feature_map": "swish"}):
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            linear_attention(**good, **({"causal": True, "eps": 1.0} | wrong))
