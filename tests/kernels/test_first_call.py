"""A first call does not wait for what it does not need."""

import json
import os
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import ahead
import pytest
import torch

from kernels import launch

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import json, sys
import torch
from kernels import LinearAttentionState, launch, linear_attention, linear_attention_step

q, k, v = (torch.ones(1, 1, 40, 16) for _ in range(3))
for causal in (False, True):
    linear_attention(q, k, v, causal=causal)
    x = q.clone().requires_grad_()
    linear_attention(x, k, v, causal=causal).sum().backward()
state = LinearAttentionState(torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16))
linear_attention_step(q[:, :, 0], k[:, :, 0], v[:, :, 0], state)
recorded = sum(replay is not None for replay in launch._replays.values())
print(json.dumps({"recorded": recorded, "modules": sorted(sys.modules)}))
"""

COMPILE = """
import json, re, sys
import ahead
import torch

found = ahead.instead_of_launching(90)

from bench.compiled import describe
from kernels import bidirectional, causal, configs, ops, short
configs.hardware = lambda device: (90, 132)

D = json.loads(sys.argv[1])
q, k, v = (torch.zeros(1, 8, 1000, D) for _ in range(3))
options = {"feature_map": "elu", "normalize": True, "scale": 1.0, "eps": 1e-6}
rows = {}

def note(way):
    for name, kernel in found.items():
        made = describe(kernel, sass=False)
        lines = re.findall(r"^\\s+(?:@\\S+ )?[a-z].*;$", kernel.asm["ptx"], re.M)
        rows[f"{way} {name}"] = len(lines), made.local
    found.clear()

bidirectional.forward(q, k, v, None, None, **options)
note("bidirectional")
causal.forward(q, k, v, None, None, **options, save=False)
note("causal")
short.forward(q, k, v, None, True, **options, keep=False)
note("short")
print(json.dumps(rows))
"""
MOST = 3500  # instructions of a kernel that compiles in about a second


@pytest.mark.parametrize("D", [64, 128, 256])
def test_float32_kernels_are_quick_to_compile(D):
    """The widest ones had five thousand, and most of what they computed with lay in memory."""
    rows = ahead.run(COMPILE, D)
    assert {"short kernels.short.short_kernel"} < set(rows) and len(rows) >= 6
    assert not {name: lines for name, (lines, _) in rows.items() if not 100 < lines < MOST}
    assert not {name: stack for name, (_, stack) in rows.items() if stack != 0}


def test_calls_do_not_import_pytorchs_compiler():
    """That import takes longer than compiling the kernels, and PyTorch hides it well."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["recorded"] > 2
    assert not {"torch._dynamo", "torch._inductor", "sympy"} & set(found["modules"])


class Slow:
    """Stands for a kernel of two arguments, the second a constant; compiling waits for others."""

    params = (SimpleNamespace(name="x", is_constexpr=False),)
    params += (SimpleNamespace(name="N", is_constexpr=False),)
    params += (SimpleNamespace(name="D", is_constexpr=True),)

    def __init__(self, barrier=None, fails=False):
        self.barrier, self.fails, self.warmed = barrier, fails, []

    def warmup(self, x, *, grid, N, D):
        self.warmed.append((N, D, threading.current_thread().name))
        if self.barrier is not None:
            self.barrier.wait(timeout=60)
        if self.fails:
            raise ValueError("cannot be compiled")
        return SimpleNamespace(run=None)


@pytest.fixture
def without_a_gpu(monkeypatch):
    active = SimpleNamespace(get_current_device=lambda: 0)
    monkeypatch.setattr(launch, "driver", SimpleNamespace(active=active))
    monkeypatch.setattr(launch, "JITFunction", Slow)
    monkeypatch.setattr(launch, "_compiled_forms", set())
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())


def launches(*kernels, N=8, D=64):
    return [(kernel, 1, (torch.zeros(N),), (), {"N": N, "D": D}) for kernel in kernels]


def test_kernels_are_compiled_side_by_side(without_a_gpu):
    """Each waits at the barrier until all three are being compiled."""
    barrier = threading.Barrier(3)
    kernels = [Slow(barrier), Slow(barrier), Slow(barrier, fails=True)]
    launch.compile_together(launches(*kernels))
    assert not barrier.broken
    assert len({name for kernel in kernels for _, _, name in kernel.warmed}) == 3


def test_only_what_is_new_is_compiled_ahead(without_a_gpu):
    kernels = Slow(), Slow()
    launch.compile_together(launches(*kernels))
    launch.compile_together(launches(*kernels, *kernels, N=16))  # a length is no constant
    assert [len(kernel.warmed) for kernel in kernels] == [1, 1]
    launch.compile_together(launches(*kernels, D=32))
    assert [len(kernel.warmed) for kernel in kernels] == [2, 2]


def test_what_triton_cannot_do_is_left_to_the_launch(without_a_gpu, monkeypatch):
    """Where there can be no more threads, say, or it finds no GPU: then the launch says so."""

    def none():
        raise RuntimeError("there is none")

    kernels = Slow(), Slow()
    with monkeypatch.context() as m:
        m.setattr(threading.Thread, "start", lambda thread: none())
        launch.compile_together(launches(*kernels))
    monkeypatch.setattr(launch.driver.active, "get_current_device", none)
    launch.compile_together(launches(*kernels, D=32))
    assert not kernels[0].warmed and not kernels[1].warmed


def test_one_kernel_alone_is_left_to_its_launch(without_a_gpu):
    kernels = Slow(), Slow()
    launch.compile_together(launches(*kernels))
    alone = Slow()
    launch.compile_together(launches(alone, *kernels))
    assert not alone.warmed and len(kernels[0].warmed) == 1
