"""A first call does not wait for what it does not need."""

import json
import os
import subprocess
import sys
from pathlib import Path

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


def test_calls_do_not_import_pytorchs_compiler():
    """That import takes longer than compiling the kernels, and PyTorch hides it well."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["recorded"] > 2
    assert not {"torch._dynamo", "torch._inductor", "sympy"} & set(found["modules"])
