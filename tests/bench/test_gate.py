"""The gate lets right results pass and refuses each of the planted faults."""

import pytest
import torch

from bench import eager, gate, runner, truth
from bench.contenders import Contender
from bench.roofline import FORWARD, FORWARD_BACKWARD, WORKS, Shape
from bench.timing import HostClock, Sampling

ONCE = Sampling(least=1, most=1, budget_s=0.0, warm_up=1)


def contender(forward, function=truth.LINEAR):
    """A contender that computes `forward`."""
    return Contender("planted", "planted", function, forward, note="")


def outcome(forward, work=FORWARD, N=300, dtype="float32", causal=True):
    """What the run says of a contender on a small shape on the CPU."""
    shape = Shape(2, 2, N, D=16, Dv=16, dtype=dtype, causal=causal)
    inputs = runner.Inputs(shape, gradients=True, device="cpu")
    return runner.measure([contender(forward)], inputs, work, HostClock(), ONCE)[0]


@pytest.mark.parametrize("work", WORKS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_right_results_pass(work, causal, dtype):
    fact = outcome(eager.linear_attention, work, dtype=dtype, causal=causal)
    assert fact["status"] == "ok", fact
    assert 0 < fact["error"] <= gate.TOLERANCE[dtype] * gate.GRADIENT_FACTOR
    assert "float64" in fact["verified"]
    assert fact["median_ms"] > 0


def nan_in_one_value(q, k, v, *, causal):
    o = eager.linear_attention(q, k, v, causal=causal)
    o[0, 1, 7, 3] = float("nan")  # of a head that the truth may not cover
    return o


def infinite_value(q, k, v, *, causal):
    o = eager.linear_attention(q, k, v, causal=causal)
    o[1, 1, 7, 3] = float("inf")
    return o


def dropped_tail(q, k, v, *, causal):
    o = eager.linear_attention(q, k, v, causal=causal)
    o[:, :, -2:] = 0
    return o


def never_written(q, k, v, *, causal):
    return torch.empty_like(v)


def everything_nan(q, k, v, *, causal):
    return torch.full_like(v, float("nan"))


def half_the_heads(q, k, v, *, causal):
    return eager.linear_attention(q, k, v, causal=causal)[:, :1]


def other_dtype(q, k, v, *, causal):
    return eager.linear_attention(q, k, v, causal=causal).double()


def future_seen(q, k, v, *, causal):
    return eager.linear_attention(q, k, v, causal=False)


@pytest.mark.parametrize(
    ("planted", "reason"),
    [
        (nan_in_one_value, "NaN or infinite in 1 of"),
        (infinite_value, "NaN or infinite in 1 of"),
        (everything_nan, "NaN or infinite in"),
        (dropped_tail, "relative error"),
        (never_written, "o "),
        (half_the_heads, "has shape"),
        (other_dtype, "is torch.float64"),
        (future_seen, "relative error"),
    ],
)
def test_wrong_results_are_refused(planted, reason):
    fact = outcome(planted)
    assert fact["status"] == "wrong", fact
    assert reason in fact["reason"]
    assert "median_ms" not in fact


def test_missing_gradient_of_the_denominator_is_refused():
    def half_differentiated(q, k, v, *, causal):
        o = eager.linear_attention(q, k, v, causal=causal)
        ones = torch.ones_like(v[..., :1])
        fq, fk = torch.nn.functional.elu(q) + 1, torch.nn.functional.elu(k) + 1
        weights = (fq @ fk.mT).tril()
        numerator, denominator = weights @ v, weights @ ones
        replacement = numerator / (denominator.detach() + 1e-6)
        return replacement + (o - replacement).detach()

    assert outcome(half_differentiated)["status"] == "ok"
    fact = outcome(half_differentiated, FORWARD_BACKWARD)
    assert fact["status"] == "wrong"
    assert fact["reason"].startswith("dq")


def test_gradient_that_does_not_flow_is_a_failure():
    fact = outcome(lambda q, k, v, causal: v * 1.0, FORWARD_BACKWARD)
    assert fact["status"] == "failed"


def test_tail_too_small_for_the_whole_norm_is_found_in_its_block():
    shape = Shape(1, 2, 8192, D=8, Dv=8, dtype="bfloat16", causal=True)
    inputs = runner.Inputs(shape, gradients=False, device="cpu")
    right = inputs.truth(truth.LINEAR)
    o = right.tensors["o"].unsqueeze(0).to(torch.bfloat16)
    assert gate.judge({"o": o}, right, "bfloat16").ok
    o[:, 1, -1] = 0
    whole, _ = gate.relative_errors(o[0].double(), right.tensors["o"])
    assert whole < gate.TOLERANCE["bfloat16"], "the whole norm should not see it: test is void"
    verdict = gate.judge({"o": o}, right, "bfloat16")
    assert not verdict.ok
    assert "rows 8176 to 8191 of head 1" in verdict.reason


def test_comparison_refuses_an_error_that_is_nan():
    """A truth that is NaN must not let anything pass either."""
    right = truth.Truth({"o": torch.full((1, 32, 4), float("nan"))}, [0], (1, 1), "nothing")
    assert not gate.judge({"o": torch.zeros(1, 1, 32, 4)}, right, "float32").ok


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: the caching allocator")
def test_poisoned_memory_is_what_empty_returns():
    like = torch.zeros(3, 5, 1000, device="cuda")
    gate.poison([like])
    assert torch.isnan(torch.empty_like(like)).all()
