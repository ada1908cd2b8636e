"""Every kernel compiles for every GPU it is meant for, and fits into its shared memory.

These are tiles of each kind; `compile_all`, a command, compiles all that are configured. No GPU is
needed, see `ahead`.
"""

import ahead
import compile_all
import pytest
import torch
from compile_all import SHARED

from kernels import configs

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


@pytest.mark.parametrize("case", CASES, ids=lambda c: "sm_{}-{}x{}-{}-{}".format(*c))
def test_every_kernel_compiles_and_fits(case):
    arch, D, Dv, dtype, N = case
    rows = compile_all.rows_of(arch, dtype, [(D, Dv, N)])
    # the chained kernel takes powers of two, and runs on an H100 only
    assert {row["kernel"].split()[0] for row in rows} | {"chained_kernel"} == EXPECTED
    wrong, noted = compile_all.faults(rows)
    print(*noted, sep="\n")
    assert not wrong, "\n".join(wrong)


def test_faults_are_found():
    row = {"arch": 86, "dtype": "float32", "kernel": "short_kernel", "tile": [16, 64, 64, 8, 1]}
    fine = row | {"shared": 99 * 1024, "registers": 255, "stack": 0}
    assert compile_all.faults([fine]) == ([], [])
    for change in ({"shared": 99 * 1024 + 1}, {"registers": None}, {"stack": 16}, {"stack": None}):
        wrong, noted = compile_all.faults([fine | change])
        assert len(wrong) == 1 and not noted and "sm_86 float32 short_kernel" in wrong[0]
    for change in ({"dtype": "bfloat16", "stack": 16}, {"stack": compile_all.WORDS}):
        wrong, noted = compile_all.faults([fine | change])
        assert not wrong and "bytes of stack" in noted[0]


@pytest.mark.parametrize("arch", SHARED)
def test_no_tile_is_forgotten(arch):
    """Every tile that the operator takes is among those that `compile_all` compiles."""
    sizes = (1, 16, 33, 64, 100, 128, 200, 256)
    for dtype in compile_all.DTYPES:
        kind, shapes = getattr(torch, dtype), compile_all.shapes_of(arch, dtype, lengths=(1000,))
        for name in EXPECTED:
            compiled = {configs.tile(name, D, Dv, kind, arch) for D, Dv, _ in shapes}
            taken = {configs.tile(name, D, Dv, kind, arch) for D in sizes for Dv in sizes}
            assert taken <= compiled, name


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


ONE_HEAD = """
import json, sys
import ahead
import torch

compiled = ahead.instead_of_launching(90)
from kernels import configs, ops

configs.hardware = lambda device: (90, 132)
forms = []
for N in (1, 100, 1000, 2000, 5000):
    for causal in (False, True):
        q, k, v = (torch.zeros(1, 1, N, 64, dtype=torch.bfloat16) for _ in range(3))
        ops._run_forward(q, k, v, None, None, None, causal, "elu", True, 1.0, 1e-6, True)
        forms.append([N, causal])
print(json.dumps([sorted({n.split('.')[-1] for n in compiled}), len(forms)]))
"""


def test_one_head_compiles_at_every_length():
    """A number that is 1 is known to the compiler, and then no tensor with a tensor's methods."""
    kernels, forms = ahead.run(ONE_HEAD)
    assert forms == 10
    assert {"short_kernel", "state_kernel", "output_kernel", "causal_output_kernel"} <= set(kernels)
