"""The model of the passes says what the kernels take, and what is launched."""

import pytest
import torch

from bench import passes, traffic
from bench.roofline import Shape
from kernels import bidirectional, causal, configs, linear_attention

ALL = [(c, p) for table in (passes.FORWARD, passes.BACKWARD) for c in table for p in table[c]]
KERNELS = {**vars(bidirectional), **vars(causal)}
INPUTS, OUTPUTS = {"q", "k", "v", "o", "do"}, {"o", "dq", "dk", "dv"}


@pytest.mark.parametrize("causal_, one", ALL, ids=lambda x: getattr(x, "name", x))
def test_a_pass_moves_what_its_kernel_takes(causal_, one):
    moved = set(one.reads) | set(one.writes)
    if one.kernel == "state_kernel":  # which takes k and v, or q and do in their place
        assert len(one.reads) == 2 and not one.writes
        return
    taken = set(KERNELS[one.kernel].arg_names) & (INPUTS | OUTPUTS)
    assert moved == taken
    assert set(one.reads) <= INPUTS and set(one.writes) <= OUTPUTS
    words = set(one.word_reads) | set(one.word_writes)
    assert words == taken_words(one.kernel)


def taken_words(kernel):
    return set(KERNELS[kernel].arg_names) & {"g", "r"}


@pytest.mark.parametrize("is_causal", [False, True])
def test_what_is_launched_is_what_is_said(is_causal, monkeypatch):
    """The kernels of a call, in order, but for those that look at states alone."""
    launched = []

    def launch(kernel, programs, tensors, strides=(), **named):
        launched.append(kernel.fn.__name__ if hasattr(kernel, "fn") else kernel.__name__)

    for module in (bidirectional, causal):
        monkeypatch.setattr(module, "launch", launch)
    monkeypatch.setattr(configs, "SHORT", 0)
    monkeypatch.setattr(configs, "SHARED", 0)
    monkeypatch.setattr(configs, "hardware", lambda device: (0, 100))
    module = causal if is_causal else bidirectional
    q = torch.zeros(1, 1, 1024, 16)
    state = torch.zeros(1, 1, 16 * 16 + 16)
    options = {"cu_seqlens": None, "feature_map": "elu", "normalize": True, "scale": 1.0}
    if is_causal:
        module.forward(q, q, q, None, **options, eps=0.0, save=True)
        forward, launched[:] = list(launched), []
        module.backward(q, q, q, None, state, None, q, None, **options, eps=0.0)
    else:
        module.forward(q, q, q, None, **options, eps=0.0)
        forward, launched[:] = list(launched), []
        module.backward(q, q, q, None, state, q, None, **options, eps=0.0)
    states = {"combine_kernel", "mean_kernel"}
    for table, got in ((passes.FORWARD, forward), (passes.BACKWARD, launched)):
        assert [p.kernel for p in table[is_causal]] == [n for n in got if n not in states]


def test_how_many_tensors():
    assert passes.tensors(passes.BACKWARD[False]) == passes.IDEAL["backward"] == 7
    assert passes.tensors(passes.FORWARD[False]) == passes.IDEAL["forward"] == 4
    assert passes.tensors(passes.BACKWARD[True]) == 15
    shape = Shape(1, 2, 100, 64)
    row = 2 * 100
    assert passes.moved(passes.BACKWARD[False], shape) == row * 7 * 64 * 2
    words = 2 + 2 + 2  # g and r: of the queries, and twice more
    assert passes.moved(passes.BACKWARD[True], shape) == row * (15 * 64 * 2 + 4 * words)
    assert [p.name for p in passes.of_kernel("state_kernel", True)] == [
        "state pass", "weighted state pass",
    ]  # fmt: skip
    assert [p.name for p in passes.of_kernel("state_kernel", True, 1.0)] == ["weighted state pass"]
    assert (
        passes.of_kernel("combine_kernel", True)
        == passes.of_kernel("combine_kernel", True, 1)
        == ()
    )
    tensor, words = row * 64 * 2, row * 4
    # in four parts, both state passes leave one out
    assert passes.moved(passes.BACKWARD[True], shape, 4) == 14 * tensor + 5.5 * words
    assert passes.moved(passes.BACKWARD[False], shape, 4) == 7 * tensor


def test_the_interpreter_counts_the_same(monkeypatch):
    """Loads and stores of a whole backward pass, states apart; in the interpreter alone."""
    if torch.cuda.is_available():
        pytest.skip("the kernels run on a GPU here")
    monkeypatch.setattr(configs, "SHORT", 0)
    monkeypatch.setattr(configs, "SHARED", 0)
    x = [torch.randn(1, 1, 512, 16, requires_grad=True) for _ in range(3)]
    shape = Shape(1, 1, 512, 16, 16, "float32")
    names = {n for p in passes.BACKWARD[True] for n in (*p.reads, *p.writes)} | {"g", "r"}
    names |= {"weight", "z_weight"}
    for causal_ in (False, True):
        o = linear_attention(*x, causal=causal_)
        do = torch.ones_like(o)
        found = traffic.traffic(lambda o=o, do=do: torch.autograd.grad(o, x, do))
        moved = sum(found[n].loaded + found[n].stored for n in names if n in found)
        kernel = f"{'causal_' * causal_}backward_query_kernel"
        parts = configs.plan(kernel, x[0], 16, 1, None)[1]
        assert parts > 1
        assert moved == passes.moved(passes.BACKWARD[causal_], shape, parts)
