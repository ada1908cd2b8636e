"""Every kernel compiles for every GPU it is meant for, and fits into its shared memory.

No GPU is needed: the launchers run on CPU tensors with the launch itself replaced, and what they
would have launched is compiled ahead of time. That takes a process without the interpreter.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# KiB of shared memory that one program may have
SHARED = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227}
EXPECTED = {
    "combine_kernel",
    "state_kernel",
    "output_kernel",
    "backward_query_kernel",
    "backward_key_kernel",
    "causal_output_kernel",
    "causal_backward_query_kernel",
    "causal_backward_key_kernel",
    "step_kernel",
    "short_kernel",
    "chained_kernel",
}
# GPU, D, Dv, dtype, N; all tiles are full, and so without a mask, if N is 1024
CASES = [
    (80, 64, 128, "bfloat16", 1000),
    (86, 64, 64, "bfloat16", 1024),
    (86, 128, 128, "bfloat16", 1000),
    (86, 256, 256, "bfloat16", 1000),
    (86, 256, 200, "float16", 1000),
    (86, 256, 256, "float32", 1000),
    (89, 40, 64, "float16", 1000),
    (90, 16, 16, "bfloat16", 1000),
    (90, 64, 64, "bfloat16", 1024),
    (90, 128, 128, "bfloat16", 1024),
    (90, 256, 256, "bfloat16", 1000),
    (100, 64, 64, "bfloat16", 1024),
]

PROGRAM = """
import json, sys
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

arch, D, Dv, dtype, N = json.loads(sys.argv[1])
TYPES = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16",
         torch.int32: "*i32"}
OPTIONS = ("num_warps", "num_stages", "maxnreg")
done = {}


def compile_instead(self, *args, grid, warmup, **kwargs):
    options = {n: kwargs.pop(n) for n in OPTIONS if n in kwargs}
    values = dict(zip(self.arg_names, args)) | kwargs
    assert set(values) == set(self.arg_names), set(values) ^ set(self.arg_names)
    signature, constants, attributes = {}, {}, {}
    for i, parameter in enumerate(self.params):
        value = values[parameter.name]
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = TYPES[value.dtype]
            attributes[(i,)] = [["tt.divisibility", 16]]
        elif parameter.is_constexpr or value is None or (type(value) is int and value == 1):
            signature[parameter.name] = "constexpr"
            constants[(i,)] = value
        elif isinstance(value, int):
            signature[parameter.name] = "i32"
            if value % 16 == 0:
                attributes[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = "fp32"
    source = ASTSource(self, signature, constants, attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    shared = compiled.metadata.shared
    name = self.fn.__name__
    done[name] = max(shared, done.get(name, 0))


triton.runtime.JITFunction.run = compile_instead

from kernels import bidirectional, causal, chained, configs, decode, ops, short
assert not ops.INTERPRETED
configs.SHORT = 0
configs.hardware = lambda device: (arch, 100)

q, k = (torch.zeros(2, 2, N, D, dtype=getattr(torch, dtype)) for _ in range(2))
v = torch.zeros(2, 2, N, Dv, dtype=q.dtype)
state = torch.zeros(2, 2, D * Dv + D)
options = {"cu_seqlens": None, "feature_map": "elu", "normalize": True, "scale": 1.0}
forward = {**options, "eps": 1e-6, "initial": state}
o, after = bidirectional.forward(q, k, v, **forward)
bidirectional.backward(q, k, v, after, o, state, **options, eps=1e-6)
short.forward(q, k, v, state, "elu", True, 1.0, 1e-6)
if arch == 90 and D == Dv == 64:
    chained.forward(q, k, v, state, "elu", True, 1.0, 1e-6, True)
o, _, denominator = causal.forward(q, k, v, **forward, save=True)
causal.backward(q, k, v, o, state, denominator, o, state, **options)
decode.step(
    q[:, :, 0], k[:, :, 0], v[:, :, 0], torch.zeros(2, 2, D, Dv), torch.zeros(2, 2, D),
    "elu", True, 1.0, 1e-6,
)
print(json.dumps(done))
"""


@pytest.mark.parametrize("case", CASES, ids=lambda c: "sm_{}-{}x{}-{}-{}".format(*c))
def test_every_kernel_compiles_and_fits(case):
    environment = {n: x for n, x in os.environ.items() if n != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(case)],
        cwd=ROOT, env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    shared = json.loads(done.stdout)
    # the chained kernel takes powers of two, and runs on an H100 only
    assert set(shared) | {"chained_kernel"} == EXPECTED
    too_much = {name: n for name, n in shared.items() if n > SHARED[case[0]] * 1024}
    assert not too_much, f"more than the {SHARED[case[0]]} KiB of an sm_{case[0]}: {too_much}"
