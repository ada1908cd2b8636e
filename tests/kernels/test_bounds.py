"""Every address that a kernel reads or writes lies within a tensor that it was given.

In Triton's interpreter, where each of them can be looked at; on a GPU `sanitize.py` asks NVIDIA's
tool, which does not see a read that ends in a neighbour within the same allocation.
"""

import numpy as np
import pytest
import torch
from oracle import ON_GPU, qkv, randn, state_for
from triton.runtime import interpreter

from kernels import bidirectional, configs, launch, linear_attention, linear_attention_step

pytestmark = pytest.mark.skipif(ON_GPU, reason="needs the interpreter; on a GPU: sanitize.py")
both_ways = pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
FLOAT32 = type("F", (), {"dtype": torch.float32})


@pytest.fixture(autouse=True)
def astray(monkeypatch):
    """(kernel, "load" or "store") of every access outside, which are to be none."""
    found, inside = [], []
    run = interpreter.GridExecutor.__call__

    def watched(self, *arguments, **named):
        given = [x for x in (*arguments, *named.values()) if isinstance(x, torch.Tensor)]
        extents = [(x, launch._extent(x)) for x in given if x.numel()]
        inside[:] = [(x.data_ptr(), x.data_ptr() + n * x.element_size()) for x, n in extents]
        inside.append(self.fn.__name__)
        return run(self, *arguments, **named)

    def look(what):
        real = getattr(interpreter.InterpreterBuilder, f"create_masked_{what}")

        def access(self, pointers, *others):
            mask = others[0 if what == "load" else 1].data.astype(bool)
            address = pointers.data[mask].astype(np.int64)
            size = pointers.get_element_ty().primitive_bitwidth // 8
            *ranges, kernel = inside
            known = [(first <= address) & (address + size <= end) for first, end in ranges]
            if not np.logical_or.reduce([np.zeros(address.shape, bool), *known]).all():
                found.append((kernel, what))
            return real(self, pointers, *others)

        monkeypatch.setattr(interpreter.InterpreterBuilder, f"create_masked_{what}", access)

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", watched)
    look("load")
    look("store")
    yield found
    assert not found, set(found)


def test_an_access_outside_is_noticed(astray):
    state = torch.ones(1, 1, 4 * 4 + 4)
    mean = torch.empty(1, 1, 4)
    sizes = {"D": 4, "DV": 4, "BLOCK_D": 4, "BLOCK_DV": 4, **configs.OPERANDS[torch.float32]}
    launch.launch(bidirectional.mean_kernel, 1, (state, mean), **sizes)
    assert not astray
    launch.launch(bidirectional.mean_kernel, 1, (state[..., :-1], mean), **sizes)
    launch.launch(bidirectional.mean_kernel, 1, (state, mean[..., :-1]), **sizes)
    assert astray == [("mean_kernel", "load"), ("mean_kernel", "store")]
    astray.clear()


@both_ways
@pytest.mark.parametrize("ends", [None, [0, 0, 20, 33, 50, 50]], ids=["one", "packed"])
@pytest.mark.parametrize("decay", [False, True], ids=["", "decay"])
def test_long_sequences(causal, ends, decay):
    """Grouped heads, no whole tile, several parts; empty sequences at the ends."""
    inputs = qkv(FLOAT32, H=2, Hk=1, N=50, D=20, Dv=24)
    options = {"causal": causal, "enable_gqa": True, "return_state": causal or not decay}
    if ends:
        options["cu_seqlens"] = torch.tensor(ends, dtype=torch.int32)
    if decay:
        options["decay"] = -randn(1, 1, 50).abs().requires_grad_()
    if options["return_state"]:
        options["initial_state"] = state_for(FLOAT32, S=len(ends or "ab") - 1, H=1, D=20, Dv=24)
    q, k, v = (x.requires_grad_() for x in inputs)
    results = linear_attention(q, k, v, **options)
    o, state = results if options["return_state"] else (results, ())
    sum(x.square().sum() for x in (o, *state)).backward()


@both_ways
@pytest.mark.parametrize("N", [30, 43], ids=["one launch", "shared sums"])
def test_short_sequences_and_steps(causal, N):
    q, k, v = qkv(FLOAT32, H=4, Hk=2, N=N, D=20, Dv=24)
    state = state_for(FLOAT32, H=2, D=20, Dv=24)
    options = {"initial_state": state, "enable_gqa": True}
    linear_attention(q, k, v, causal=causal, return_state=True, **options)
    linear_attention_step(*(x[:, :, 0] for x in (q, k, v)), state, enable_gqa=True)
