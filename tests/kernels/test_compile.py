"""Every kernel compiles for every GPU it is meant for, and fits into its shared memory.

No GPU is needed, see `ahead`.
"""

import ahead
import pytest

# KiB of shared memory that one program may have
SHARED = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227}
EXPECTED = {
    "combine_kernel",
    "mean_kernel",
    "shift_kernel",
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
import ahead
import torch

arch, D, Dv, dtype, N = json.loads(sys.argv[1])
compiled = ahead.instead_of_launching(arch)

from kernels import bidirectional, causal, chained, configs, decode, ops, short
assert not ops.INTERPRETED
configs.SHORT = configs.SHARED = 0
configs.hardware = lambda device: (arch, 100)

q, k = (torch.zeros(2, 2, N, D, dtype=getattr(torch, dtype)) for _ in range(2))
v = torch.zeros(2, 2, N, Dv, dtype=q.dtype)
state = torch.zeros(2, 2, D * Dv + D)
options = {"cu_seqlens": None, "feature_map": "elu", "normalize": True, "scale": 1.0}
forward = {**options, "eps": 1e-6, "initial": state}
o, after = bidirectional.forward(q, k, v, **forward)
bidirectional.backward(q, k, v, state, after, o, state, **options, eps=1e-6)
for is_causal in (False, True):
    for configs.SHORT in (0, N):  # sums shared, and not
        short.forward(q, k, v, state, is_causal, "elu", True, 1.0, 1e-6, True)
configs.SHORT = 0
if arch == 90 and D == Dv == 64:
    chained.forward(q, k, v, state, "elu", True, 1.0, 1e-6, True)
o, after, kept = causal.forward(q, k, v, **forward, save=True)
causal.backward(q, k, v, state, after, kept, o, state, **options, eps=1e-6)
decode.step(
    q[:, :, 0], k[:, :, 0], v[:, :, 0], torch.zeros(2, 2, D, Dv), torch.zeros(2, 2, D),
    None, "elu", True, 1.0, 1e-6,
)
print(json.dumps({n.split('.')[-1]: k.metadata.shared for n, k in compiled.items()}))
"""


@pytest.mark.parametrize("case", CASES, ids=lambda c: "sm_{}-{}x{}-{}-{}".format(*c))
def test_every_kernel_compiles_and_fits(case):
    shared = ahead.run(PROGRAM, case)
    # the chained kernel takes powers of two, and runs on an H100 only
    assert set(shared) | {"chained_kernel"} == EXPECTED
    too_much = {name: n for name, n in shared.items() if n > SHARED[case[0]] * 1024}
    assert not too_much, f"more than the {SHARED[case[0]]} KiB of an sm_{case[0]}: {too_much}"


# --- with decay --------------------------------------------------------------------------------

WITH_DECAY = {
    "decay_state_kernel",
    "decay_combine_kernel",
    "decay_output_kernel",
    "decay_backward_query_kernel",
    "decay_backward_key_kernel",
    "decay_gradient_kernel",
    "decay_sums_kernel",
    "step_kernel",
}
DECAY_CASES = [
    (80, 64, 64, "bfloat16", 1000),
    (86, 128, 128, "float32", 1000),
    (90, 64, 64, "bfloat16", 1024),
    (100, 64, 64, "bfloat16", 1024),
]

DECAY_PROGRAM = """
import json, sys
import ahead
import torch

arch, D, Dv, dtype, N = json.loads(sys.argv[1])
compiled = ahead.instead_of_launching(arch)

from kernels import configs, decay, decay_backward, decode, ops
assert not ops.INTERPRETED
configs.hardware = lambda device: (arch, 100)

q, k = (torch.zeros(2, 2, N, D, dtype=getattr(torch, dtype)) for _ in range(2))
v = torch.zeros(2, 2, N, Dv, dtype=q.dtype)
g, state = torch.zeros(2, 2, N), torch.zeros(2, 2, D * Dv + D)
o, _, inverse = decay.forward(q, k, v, state, None, g, True, "elu", True, 1.0, 1e-6, True)
decay_backward.backward(
    q, k, v, state, None, g, o, inverse, o, state, True, "elu", True, 1.0
)
decode.step(
    q[:, :, 0], k[:, :, 0], v[:, :, 0], torch.zeros(2, 2, D, Dv), torch.zeros(2, 2, D),
    g[:, :, 0], "elu", True, 1.0, 1e-6,
)
print(json.dumps({n.split('.')[-1]: k.metadata.shared for n, k in compiled.items()}))
"""


@pytest.mark.parametrize("case", DECAY_CASES, ids=lambda c: "sm_{}-{}x{}-{}-{}".format(*c))
def test_every_kernel_with_decay_compiles_and_fits(case):
    shared = ahead.run(DECAY_PROGRAM, case)
    assert set(shared) == WITH_DECAY
    too_much = {name: n for name, n in shared.items() if n > SHARED[case[0]] * 1024}
    assert not too_much, f"more than the {SHARED[case[0]]} KiB of an sm_{case[0]}: {too_much}"
