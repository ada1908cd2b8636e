"""Packed sequences: many of any length in one batch, told apart by cu_seqlens."""

import pytest
import torch
from oracle import DEVICE, TOLERANCE, agree, assert_close, qkv, run, state_for

both_ways = pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])

LENGTHS = {
    "one sequence": [70],
    "one token": [1],
    "even": [32, 32],
    "empty at the ends": [0, 40, 0],
    "two empty in a row": [10, 0, 0, 10],
    "mixed": [1, 130, 0, 17, 1, 64],
    "all empty": [0, 0],
}


def packed(lengths):
    ends = torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32)
    return ends.to(DEVICE)


@both_ways
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_each_sequence_attends_to_itself_alone(subject, causal, lengths):
    # with one key the true gradient of q is eps times what its two terms are: a small eps would
    # leave a difference that cancels, of which half precision keeps nothing
    inputs = qkv(subject, N=sum(lengths))
    agree(subject, *inputs, causal=causal, cu_seqlens=packed(lengths), eps=50.0)


@both_ways
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_each_sequence_has_its_own_state(subject, causal, lengths):
    inputs = qkv(subject, N=sum(lengths))
    state = state_for(subject, S=len(lengths))
    agree(subject, *inputs, state, causal=causal, cu_seqlens=packed(lengths))


@both_ways
@pytest.mark.parametrize("normalize", [True, False], ids=["normalized", "scaled"])
def test_packed_with_grouped_heads_and_wide_values(precise, causal, normalize):
    lengths = [20, 0, 45]
    agree(
        precise,
        *qkv(precise, H=4, Hk=2, N=65, D=16, Dv=150),
        state_for(precise, S=3, H=2, D=16, Dv=150),
        causal=causal,
        normalize=normalize,
        cu_seqlens=packed(lengths),
        enable_gqa=True,
    )


@both_ways
def test_packed_is_the_same_as_one_after_the_other(operator, causal):
    lengths = [33, 64, 5]
    q, k, v = qkv(operator, N=sum(lengths))
    ends = packed(lengths)
    o, state = operator(q, k, v, causal=causal, cu_seqlens=ends, return_state=True)
    at = 0
    for i, n in enumerate(lengths):
        rows = slice(at, at + n)
        alone, own = operator(
            q[:, :, rows], k[:, :, rows], v[:, :, rows], causal=causal, return_state=True
        )
        assert_close("o", o[:, :, rows], alone, TOLERANCE[operator.dtype])
        assert_close("kv", state.kv[i : i + 1], own.kv, TOLERANCE[operator.dtype])
        at += n


@both_ways
@pytest.mark.parametrize("others", [float("nan"), float("inf"), 1e4])
def test_nothing_leaks_from_one_sequence_into_another(operator, causal, others):
    lengths = [30, 41, 20]
    inputs, ends = qkv(operator, N=91), packed(lengths)
    inside = slice(30, 71)
    clean = run(operator, *inputs, causal=causal, cu_seqlens=ends, return_state=True)
    spoiled = [x.clone() for x in inputs]
    for x in spoiled:
        x[:, :, :30] = others
        x[:, :, 71:] = others
    dirty = run(operator, *spoiled, causal=causal, cu_seqlens=ends, return_state=True)
    for name in ("o", "dq", "dk", "dv"):
        assert torch.equal(clean[name][:, :, inside], dirty[name][:, :, inside]), name
    assert torch.equal(clean["kv"][1], dirty["kv"][1])
    assert torch.equal(clean["z"][1], dirty["z"][1])
