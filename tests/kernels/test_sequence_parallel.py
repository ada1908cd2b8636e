"""One sequence cut over several ranks: the same values and gradients as in one process."""

import re

import numpy
import pytest
import torch
from oracle import GRADIENT, TOLERANCE
from ranks import CASES, EVERYONE, WORLD, WRONG, run_all

from kernels import LinearAttentionState, reference, sequence_parallel_attention


@pytest.fixture(scope="module")
def results():
    """What every rank got in every case."""
    results, codes = run_all()
    assert codes == [0] * WORLD, f"ranks ended with {codes}, after {list(results)}"
    return results


def truth(case):
    """o, kv, z, dq, dk, dv and the gradients of the initial state, in one process and float64."""
    q, k, v, do, state = case.inputs()
    tensors = [x.double().requires_grad_() for x in (q, k, v, *state)]
    options = {n: x for n, x in case.options.items() if n not in ("overlap", "check")}
    o, after = reference.chunked(
        *tensors[:3], causal=case.causal, return_state=True, enable_gqa=True,
        initial_state=LinearAttentionState(*tensors[3:]) if case.initial else None, **options,
    )  # fmt: skip
    gradients = torch.autograd.grad(o, tensors, do.double(), materialize_grads=True)
    return [x.detach().numpy() for x in (o, *after, *gradients)]


def distance(x, y):
    """‖x - y‖ / ‖y‖; NaN if there is one in x."""
    return numpy.linalg.norm(x - y) / numpy.linalg.norm(y)


def check(case, by_rank):
    """Raises AssertionError unless the ranks together have what `truth` says."""
    ranks = [by_rank[m] for m in case.members]
    expected = truth(case)
    bound = TOLERANCE[case.dtype]
    for at, name in enumerate(("o", "kv", "z", "dq", "dk", "dv", "dkv", "dz")):
        if at in (1, 2):  # of all keys: the same on every rank
            for values in ranks:
                assert (values[at] == ranks[0][at]).all(), f"{name} is not the same on all ranks"
            together, allowed = ranks[0][at], bound
        elif at > 5:
            if not case.initial:
                continue
            together, allowed = ranks[0][at], bound * GRADIENT
        else:
            together = numpy.concatenate([values[at] for values in ranks], axis=2)
            allowed = bound * (GRADIENT if at else 1)
        assert together.shape == expected[at].shape, f"{name} {together.shape}"
        if name == "dz" and not case.options.get("normalize", True):
            assert not together.any()
        else:
            error = distance(together, expected[at])
            assert error <= allowed, f"{name} is off by {error:.1e}, {allowed:.0e} is allowed"


def present(name, case):
    if max(case.members) >= WORLD:
        pytest.skip(f"{name} needs {max(case.members) + 1} GPUs, and there are {WORLD}")


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_equal_those_of_one_process(name, results):
    present(name, CASES[name])
    check(CASES[name], {rank: twice[0] for rank, twice in results[name].items()})


@pytest.mark.parametrize("name", CASES)
def test_two_runs_agree_bit_for_bit(name, results):
    present(name, CASES[name])
    for first, second in results[name].values():
        for x, y in zip(first, second, strict=True):
            assert x.tobytes() == y.tobytes()


@pytest.mark.parametrize("name", CASES)
def test_only_what_is_told_to_overlap_sends_halves(name, results):
    case = CASES[name]
    present(name, case)
    halves = name.endswith("-overlap")
    for first, _ in results[name].values():
        assert first[-1] == 2 * (1 + halves), "exchanges, forward and backward"


def test_the_check_sees_a_piece_that_lacks_what_came_before(results):
    case = CASES["causal-two"]
    by_rank = {rank: list(twice[0]) for rank, twice in results["causal-two"].items()}
    q, k, v, *_ = (x[:, :, case.mine(1)[0]] for x in case.inputs()[:3])
    by_rank[1][0] = reference.chunked(q, k, v, causal=True, enable_gqa=True).numpy()
    with pytest.raises(AssertionError, match="o is off by"):
        check(case, by_rank)
    by_rank[1][0] = numpy.full_like(by_rank[1][0], numpy.nan)
    with pytest.raises(AssertionError, match="o is off by nan"):
        check(case, by_rank)


@pytest.mark.parametrize("what", WRONG)
def test_ranks_that_differ_all_end_with_an_error(what, results):
    odd, rest = WRONG[what]
    for rank in range(WORLD):
        if rank == 1 and what == "ended":
            assert rank not in results[what]
            continue
        said, seconds, _ = results[what][rank]
        pattern = odd if rank == 1 and odd else rest
        assert said and re.match(pattern, said, re.DOTALL), f"rank {rank} said {said}"
        assert seconds < 30, f"rank {rank} took {seconds:.0f} seconds to say so"


@pytest.mark.parametrize("what", [w for w in WRONG if w not in ("late", "ended")])
def test_the_group_is_whole_after_a_disagreement(what, results):
    check(EVERYONE, {rank: result[2] for rank, result in results[what].items()})


def test_without_a_process_group():
    x = torch.ones(1, 1, 4, 16)
    with pytest.raises(RuntimeError, match=r"torch.distributed.init_process_group\(\)"):
        sequence_parallel_attention(x, x, x)
