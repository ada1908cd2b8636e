"""The comparison itself: planted faults must not pass it."""

import pytest
import torch
from oracle import TOLERANCE, Subject, agree, assert_close, qkv, randn, relative_error, truth

BFLOAT16 = TOLERANCE[torch.bfloat16]  # the widest: what it catches, all catch


@pytest.fixture
def x():
    return randn(1, 2, 8192, 16)


def test_equal_tensors_pass(x):
    assert_close("x", x.clone(), x, BFLOAT16)
    assert relative_error(torch.zeros(3), torch.zeros(3)) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("planted", ["out", "expected", "both"])
def test_nan_and_inf_do_not_pass(x, value, planted):
    out, expected = x.clone(), x.clone()
    if planted != "expected":
        out[0, 1, 77, 3] = value
    if planted != "out":
        expected[0, 1, 77, 3] = value
    with pytest.raises(AssertionError, match="off by inf"):
        assert_close("x", out, expected, BFLOAT16)


def test_one_lost_row_in_a_long_tensor_does_not_pass(x):
    out = x.clone()
    out[:, :, -1] = 0
    assert relative_error(out, x) < 0.02  # hardly seen in the whole
    with pytest.raises(AssertionError, match="rows 8176"):
        assert_close("x", out, x, 0.02)


def test_a_tail_that_was_written_twice_too_large_does_not_pass(x):
    out = x.clone()
    out[:, :, -16:] *= 2
    with pytest.raises(AssertionError):
        assert_close("x", out, x, 3 * BFLOAT16)


def test_a_wrong_shape_that_would_broadcast_does_not_pass(x):
    with pytest.raises(AssertionError, match="should be"):
        assert_close("x", x[:, :1], x[:, :1].expand(1, 2, 8192, 16), BFLOAT16)


def test_a_result_where_zero_is_right_does_not_pass():
    with pytest.raises(AssertionError, match="off by inf"):
        assert_close("x", torch.full((2, 2), 1e-30), torch.zeros(2, 2), BFLOAT16)


def test_fresh_memory_is_poisoned(x):
    for fresh in (
        torch.empty(3),
        torch.empty_like(x),
        x.new_empty(4),
        x.new_empty((4,), dtype=torch.bfloat16),
        torch.empty_strided((2, 2), (2, 1)),
    ):
        assert fresh.isnan().all()
    assert (torch.empty(3, dtype=torch.int32) != 0).all()


def faulty(fault):
    """An implementation with one fault, made from the truth."""

    def attention(q, k, v, *, return_state, **options):
        o, kv, z = truth(q, k, v, **options)
        if fault == "dropped tail":
            o = torch.cat([o[:, :, :-1], torch.zeros_like(o[:, :, -1:])], dim=2)
        elif fault == "unwritten output":
            o = o + torch.empty_like(o)
        elif fault == "no gradient through the denominator":
            fq, fk = torch.nn.functional.elu(q) + 1, torch.nn.functional.elu(k) + 1
            d = torch.einsum("bhnd,bhmd->bhnm", fq, fk).sum(-1, keepdim=True)
            o = o * d / d.detach()
        elif fault == "no eps":
            o = truth(q, k, v, **options | {"eps": 0})[0]
        elif fault == "state not summed to its end":
            kv = kv - kv.detach() * 1e-3
        return o, kv, z

    return Subject(fault, attention, torch.float64)


@pytest.mark.parametrize(
    "fault",
    [
        "dropped tail",
        "unwritten output",
        "no gradient through the denominator",
        "no eps",
        "state not summed to its end",
    ],
)
def test_planted_faults_do_not_pass(fault):
    subject = faulty(fault)
    with pytest.raises(AssertionError, match="off by"):
        agree(subject, *qkv(subject, N=33), eps=1e-2)


def test_without_a_fault_the_same_passes():
    subject = faulty(None)
    agree(subject, *qkv(subject, N=33), eps=1e-2)
