"""Any strides: what lies between and around the elements is never read."""

import mmap

import pytest
import torch
from oracle import DEVICE, TOLERANCE, agree, assert_close, qkv, randn, state_for, truth

from kernels import linear_attention, ops

FLOAT16 = type("F", (), {"dtype": torch.float16})
both_ways = pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])


def transposed(x):
    """Stored [B, N, H, D], as a linear layer leaves it."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def features_first(x):
    """Stored [B, H, D, N]."""
    return x.mT.contiguous().mT


def every_second_feature(x):
    """Steps of two in the last dimension, NaN in between."""
    buffer = x.new_full((*x.shape[:-1], 2 * x.shape[-1]), float("nan"))
    buffer[..., ::2] = x
    return buffer[..., ::2]


def every_second_token(x):
    buffer = x.new_full((*x.shape[:2], 2 * x.shape[2], x.shape[3]), float("nan"))
    buffer[:, :, 1::2] = x
    return buffer[:, :, 1::2]


def framed_by_nan(x):
    """Cut out of a larger tensor: a read one row or one column too far brings a NaN."""
    buffer = x.new_full([n + 2 for n in x.shape], float("nan"))
    inside = buffer[1:-1, 1:-1, 1:-1, 1:-1]
    inside.copy_(x)
    return inside


def one_token_for_all(x):
    return x[:, :, :1].expand(x.shape)


def one_head_for_all(x):
    return x[:, :1].expand(x.shape)


def one_feature_for_all(x):
    return x[..., :1].expand(x.shape)


LAYOUTS = [
    transposed,
    features_first,
    every_second_feature,
    every_second_token,
    framed_by_nan,
    one_head_for_all,
    one_token_for_all,
    one_feature_for_all,
]


@both_ways
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides_of_the_inputs(subject, causal, layout):
    q, k, v = (layout(x) for x in qkv(subject, B=2, N=35, Dv=12))
    # where all features or all keys are equal, the true gradient of a normalized output cancels
    normalize = layout not in (one_token_for_all, one_feature_for_all)
    agree(subject, q, k, v, causal=causal, normalize=normalize)


@both_ways
def test_each_input_may_have_its_own_strides(subject, causal):
    q, k, v = qkv(subject, B=2, N=35, Dv=12)
    agree(subject, transposed(q), every_second_feature(k), features_first(v), causal=causal)


@both_ways
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides_of_the_output_gradient(precise, causal, layout):
    do = layout(randn(2, 2, 35, 12, dtype=precise.dtype, seed=4))

    def gradients(function):
        inputs = [x.requires_grad_() for x in qkv(precise, B=2, N=35, Dv=12)]
        o = function(*inputs, causal=causal)
        o = o[0] if isinstance(o, tuple) else o
        return torch.autograd.grad(o, inputs, do.to(o.dtype))

    for name, found, want in zip(
        ["dq", "dk", "dv"], gradients(precise), gradients(truth), strict=True
    ):
        assert_close(name, found, want, 3 * TOLERANCE[precise.dtype])


@both_ways
def test_any_strides_of_the_state(precise, causal):
    kv, z = state_for(precise, S=2, H=3)
    state = (kv.mT.contiguous().mT, z.transpose(0, 1).contiguous().transpose(0, 1))
    agree(precise, *qkv(precise, B=2, H=3), state, causal=causal)


@both_ways
def test_a_state_shared_by_all_sequences(precise, causal):
    state = [x.expand(3, *x.shape[1:]) for x in state_for(precise)]
    agree(precise, *qkv(precise, B=3), tuple(state), causal=causal)


@both_ways
def test_any_strides_of_cu_seqlens(precise, causal):
    ends = torch.tensor([0, 99, 20, 99, 50, 99], dtype=torch.int32, device=DEVICE)[::2]
    assert ends.tolist() == [0, 20, 50] and not ends.is_contiguous()
    agree(precise, *qkv(precise, N=50), causal=causal, cu_seqlens=ends)


@both_ways
def test_one_tensor_may_serve_as_q_k_and_v(precise, causal):
    x = qkv(precise)[0]
    agree(precise, x, x, x, causal=causal)


@both_ways
def test_inputs_may_share_one_projection(precise, causal):
    """q, k and v cut from one [B, N, 3, H, D], as a fused linear layer leaves them."""
    x = randn(2, 30, 3, 2, 16, dtype=precise.dtype)
    agree(precise, *(x[:, :, i].transpose(1, 2) for i in range(3)), causal=causal)


def test_features_that_lie_far_apart():
    """More than 2³¹ elements from the first to the last: kernels take that for 32 bits."""
    far = 2**23 + 2**16
    pages = mmap.mmap(-1, 2 * (255 * far + 2))  # those that are not touched take no memory
    x = torch.frombuffer(pages, dtype=torch.float16).as_strided((1, 1, 2, 256), (1, 1, 1, far))
    x.copy_(qkv(FLOAT16, H=1, N=2, D=256)[0])
    (near, nothing) = ops._readable(x, None)
    assert near.stride(-1) == 1 and torch.equal(near, x) and nothing is None
    assert ops._readable(x[..., :255])[0].stride(-1) == far
    assert torch.equal(linear_attention(x, x, x), linear_attention(near, near, near))
