"""Which code runs where: the reference on a CPU, the kernels on a GPU and in the interpreter."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from oracle import ON_GPU, qkv, randn, state_for, truth

import kernels
from kernels import bidirectional, causal, decode, linear_attention, linear_attention_step, ops

ROOT = Path(kernels.__file__).resolve().parent.parent
both_ways = pytest.mark.parametrize("is_causal", [False, True], ids=["bidirectional", "causal"])


def python(program, **environment):
    """Runs a program in a fresh process, at the checkout's root, outside the interpreter."""
    kept = {n: x for n, x in os.environ.items() if n not in ("TRITON_INTERPRET", "PYTHONPATH")}
    kept["PYTHONPATH"] = f"{ROOT}{os.pathsep}{Path(__file__).parent}"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=kept | environment,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@both_ways
def test_here_the_kernels_run_forward_and_backward(is_causal, monkeypatch):
    """The tests of this folder would prove nothing if the reference answered."""
    ran = []
    module = causal if is_causal else bidirectional
    for name in ("forward", "backward"):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, f=real, n=name: ran.append(n) or f(*a))
    monkeypatch.setattr(ops.reference, "chunked", None)
    q, k, v = (x.requires_grad_() for x in qkv(type("F", (), {"dtype": torch.float32})))
    linear_attention(q, k, v, causal=is_causal).sum().backward()
    assert ran == ["forward", "backward"]


def test_here_the_kernel_runs_a_step(monkeypatch):
    ran = []
    real = decode.step
    monkeypatch.setattr(decode, "step", lambda *a: ran.append("step") or real(*a))
    subject = type("F", (), {"dtype": torch.float32})
    linear_attention_step(*(x[:, :, 0] for x in qkv(subject, N=1)), state_for(subject))
    assert ran == ["step"]


ON_CPU = """
import torch
torch.cuda.is_available = lambda: False  # the tensors of the tests, too, stay on the CPU
from oracle import DEVICE, SUBJECTS, agree, qkv, state_for
from kernels import bidirectional, causal, ops
assert not ops.INTERPRETED and DEVICE == "cpu"
bidirectional.forward = causal.forward = None  # not to be called
for subject in SUBJECTS[:3]:
    assert subject.name == "operator"
    for is_causal in (False, True):
        agree(subject, *qkv(subject, N=300), state_for(subject), causal=is_causal)
        agree(subject, *qkv(subject, H=4, Hk=2), causal=is_causal, enable_gqa=True)
        cu_seqlens = torch.tensor([0, 7, 7, 50], dtype=torch.int32)
        agree(subject, *qkv(subject), causal=is_causal, cu_seqlens=cu_seqlens, normalize=False)
    q, k, v = (x[:, :, 0] for x in qkv(subject, N=1))
    state = state_for(subject)
    o, new = ops.linear_attention_step(q, k, v, state)
    assert o.dtype == subject.dtype and not torch.equal(new.kv, state.kv)
print("done")
"""


def test_on_a_cpu_without_the_interpreter_the_reference_runs():
    assert python(ON_CPU).split() == ["done"]


@pytest.mark.skipif(not ON_GPU, reason="needs a GPU beside the CPU")
def test_on_a_machine_with_a_gpu_a_cpu_tensor_stays_on_the_cpu():
    q = torch.randn(1, 1, 20, 8)
    o = linear_attention(q, q, q)
    assert o.device.type == "cpu"
    assert torch.allclose(o, truth(q, q, q)[0].float(), atol=1e-5)


PRETENDED = """
import json, warnings
import torch, triton
from oracle import SUBJECTS, agree, qkv, randn, state_for
from kernels import configs, linear_attention, linear_attention_step, ops

class Launched(Exception):
    pass

def launch(kernel, *args, **options):
    raise Launched

# The tensors are on the CPU. The operator takes them for those of a GPU that is not there, and a
# launch, which would also compile the kernel, ends the call.
class OnGpu:
    device = torch.device("cuda", 0)

triton.runtime.JITFunction.run = launch
torch.cuda.get_device_capability = lambda device: divmod(arch, 10)
torch.cuda.get_device_name = lambda device: "some GPU"
configs.hardware = lambda device: (arch, 40)
kernels_run = ops._kernels_run
ops._kernels_run = lambda x: kernels_run(OnGpu)
ops._can_be_replayed = lambda *x: ops._are_plain(x) and not ops._autograd_asks(x)

half = next(s for s in SUBJECTS if s.dtype == torch.float16)
decay = -randn(1, 2, 300).abs()
bounds = torch.tensor([0, 7, 7, 50], dtype=torch.int32)
token, state = [x[:, :, 0] for x in qkv(half, N=1)], state_for(half)

def calls(causal):
    # `agree`: forward and backward, and the state, against the truth
    yield lambda: agree(half, *qkv(half, N=300), state, causal=causal)
    yield lambda: agree(half, *qkv(half, N=20), causal=causal)
    yield lambda: agree(half, *qkv(half), causal=causal, cu_seqlens=bounds)
    yield lambda: agree(half, *qkv(half, H=4, Hk=2), causal=causal, enable_gqa=True)
    yield lambda: linear_attention(*qkv(half, N=300), causal=causal)
    q, k, v = (x.requires_grad_() for x in qkv(half, N=300))
    yield lambda: linear_attention(q, k, v, causal=causal, decay=decay).sum().backward()
    yield lambda: linear_attention_step(*token, state)
    yield lambda: linear_attention_step(*token, state, decay=decay[..., 0])

for arch in (75, 80):
    made = launched = 0
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for call in (*calls(False), *calls(True)):
            for _ in range(2):  # the second may be the replay of the first
                made += 1
                try:
                    call()
                except Launched:
                    launched += 1
    print(json.dumps([made, launched, [str(w.message) for w in said]]))
"""


def test_an_old_gpu_launches_nothing_and_says_so_once():
    """And every call launches on an sm_80: who counts the launches does see them."""
    # also where there is a GPU: the tensors are to be on the CPU
    old, new = map(json.loads, python(PRETENDED, CUDA_VISIBLE_DEVICES="").splitlines())
    made, launched, said = old
    assert made > 30 and launched == 0
    assert len(said) == 1 and said[0].startswith("some GPU is older than sm_80")
    assert new == [made, made, []]


def test_importing_the_package_leaves_the_environment_alone():
    program = "import os; a = dict(os.environ); import kernels; assert a == dict(os.environ)"
    python(program)


def test_kernels_is_ours():
    """Hugging Face's package on PyPI has the same name."""
    assert Path(kernels.__file__).resolve() == Path(__file__).resolve().parents[2] / "kernels" / (
        "__init__.py"
    )


FLA = importlib.util.find_spec("fla")


@pytest.mark.skipif(FLA is None, reason="flash-linear-attention is not installed")
@pytest.mark.parametrize("order", ["import kernels, fla", "import fla, kernels"])
def test_ours_and_fla_live_in_one_process(order):
    where = f"import sys; sys.path.append({str(Path(FLA.origin).parents[1])!r})"
    python(f"{where}; {order}; kernels.linear_attention; fla.__version__")


@both_ways
@pytest.mark.parametrize("options", [{}, {"normalize": False, "feature_map": "softmax"}], ids=str)
def test_the_registered_operator_keeps_torch_library_s_rules(is_causal, options):
    """Its schema, its shapes without data, its autograd, and all of it under AOT dispatch."""
    subject = type("F", (), {"dtype": torch.float32})
    q, k, v = (x.requires_grad_() for x in qkv(subject, N=20))
    kv, z = state_for(subject)
    initial = torch.cat([kv.flatten(2), z], dim=-1).requires_grad_()
    arguments = (
        q, k, v, initial, None, None, is_causal, options.get("feature_map", "elu"),
        options.get("normalize", True), 0.25, 1e-6, True,
    )  # fmt: skip
    torch.library.opcheck(ops.forward, arguments)


@both_ways
@pytest.mark.parametrize("given", ["", "initial", "packed", "packed initial", "decay"])
def test_the_registered_gradient_keeps_them_too(is_causal, given):
    """And gives a gradient of the initial state and of decay where these are, and only there."""
    subject = type("F", (), {"dtype": torch.float32})
    H, Hk = (4, 2) if given == "packed" else (2, 2)  # and once with heads that share a state
    q, k, v = qkv(subject, N=50, H=H, Hk=Hk)
    bounds = torch.tensor([0, 7, 7, 50], dtype=torch.int32, device=q.device)
    bounds = bounds if "packed" in given else None
    kv, z = state_for(subject, S=1 if bounds is None else 3)
    initial = torch.cat([kv.flatten(2), z], dim=-1) if "initial" in given else None
    decay = -randn(1, 2, 50).abs() if given == "decay" else None
    inputs, options = (q, k, v, initial, bounds, decay), (is_causal, "elu", True, 0.25, 1e-6)
    o, state, kept = ops.forward(*inputs, *options, True)
    arguments = (*inputs, state, kept, o, randn(*o.shape, seed=7), None, *options)
    *_, dinitial, ddecay = ops.backward(*arguments)
    assert dinitial.shape == ((0,) if initial is None else initial.shape)
    assert ddecay.shape == ((0,) if decay is None else decay.shape)
    torch.library.opcheck(ops.backward, arguments)


@both_ways
def test_a_gradient_of_any_strides_reaches_the_registered_operator(is_causal):
    """Of the state, which the kernels read as contiguous."""
    subject = type("F", (), {"dtype": torch.float32})

    def gradients(dstate):
        inputs = [x.requires_grad_() for x in qkv(subject, N=20)]
        options = (None, None, None, is_causal, "elu", True, 1.0, 1e-6, True)
        state = ops.forward(*inputs, *options)[1]
        return torch.autograd.grad(state, inputs, dstate(state))

    expanded = gradients(lambda state: state.new_ones(()).expand(state.shape))
    contiguous = gradients(torch.ones_like)
    assert all(torch.equal(a, b) for a, b in zip(expanded, contiguous, strict=True))
