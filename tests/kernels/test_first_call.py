"""A first call does not wait for what it does not need."""

import json
import os
import subprocess
import sys
from pathlib import Path

import ahead
import pytest

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
