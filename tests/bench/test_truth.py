"""The truth itself, against the definition written another way."""

import pytest
import torch

from bench import truth
from bench.roofline import Shape


def definition(function, q, k, v, causal):
    """o by the N × N weights, which autograd differentiates."""
    if function.family == "softmax":
        scores = q @ k.mT / q.shape[-1] ** 0.5
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), float("-inf"))
        return scores.softmax(-1) @ v
    weights = (torch.nn.functional.elu(q) + 1) @ (torch.nn.functional.elu(k) + 1).mT
    if causal:
        weights = weights.tril()
    return weights @ v / (weights.sum(-1, keepdim=True) + 1e-6)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("function", [truth.SOFTMAX, truth.LINEAR], ids=lambda f: f.family)
def test_outputs_and_gradients(function, causal):
    shape = Shape(2, 3, 70, D=8, Dv=5, dtype="float32", causal=causal)
    q, k = torch.randn(2, 2, 3, 70, 8)
    v, do = torch.randn(2, 2, 3, 70, 5)
    right = truth.compute(function, shape, q, k, v, do)
    assert right.heads == list(range(6))
    q, k, v = (x.double().flatten(0, 1).requires_grad_() for x in (q, k, v))
    o = definition(function, q, k, v, causal)
    gradients = torch.autograd.grad(o, (q, k, v), do.double().flatten(0, 1))
    for name, want in zip(("o", "dq", "dk", "dv"), (o, *gradients), strict=True):
        torch.testing.assert_close(right.tensors[name], want, rtol=1e-10, atol=1e-10)


def test_softmax_in_blocks_of_rows_is_the_same():
    q, k, v, do = torch.randn(4, 1, 37, 4, dtype=torch.float64)
    whole = truth.softmax_attention(q, k, v, do, causal=True)
    blocks = truth.softmax_attention(q, k, v, do, causal=True, rows=10)
    for name in whole:
        torch.testing.assert_close(whole[name], blocks[name])


@pytest.mark.parametrize("function", [truth.SOFTMAX, truth.LINEAR], ids=lambda f: f.family)
def test_heads_include_first_and_last_and_stay_affordable(function):
    for B, N in ((8, 65536), (1, 65536), (8, 512), (8, 2**20)):
        heads = truth.pick_heads(Shape(B, 8, N), function)
        assert heads[0] == 0
        assert heads[-1] == B * 8 - 1
        assert len(heads) == len(set(heads))
        if N >= 65536:
            assert len(heads) <= 4
    assert truth.pick_heads(Shape(1, 1, 512), function) == [0]
    assert len(truth.pick_heads(Shape(8, 8, 512), function)) == 64
