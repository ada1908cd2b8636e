"""Every kernel compiles for every GPU it is meant for, and fits its shared memory and registers.

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
    "decay_state_kernel",
    "decay_combine_kernel",
    "decay_output_kernel",
    "decay_backward_query_kernel",
    "decay_backward_key_kernel",
    "decay_gradient_kernel",
    "decay_sums_kernel",
}
CHAINED = {"chained_kernel", "decay_chained_kernel"}  # heads of 64 in bfloat16, on an H100 only
# GPU, dtype, and (D, Dv, N); all tiles are full, and so without a mask, if N is 1024
CASES = [
    (80, "bfloat16", [(64, 64, 1000), (64, 128, 1000)]),
    (86, "bfloat16", [(64, 64, 1024), (128, 128, 1000), (256, 256, 1000)]),
    (86, "float32", [(256, 256, 1000)]),
    (89, "float16", [(40, 64, 1000), (256, 256, 1024)]),
    (90, "bfloat16", [(64, 64, 1024), (128, 128, 1000), (256, 256, 1024)]),
    (100, "bfloat16", [(64, 64, 1024)]),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"sm_{c[0]}-{c[1]}")
def test_every_kernel_compiles_and_fits(case):
    """And none spills but those that are known to, which do, by the compiler they are known of."""
    arch, dtype, shapes = case
    rows = compile_all.rows_of(arch, dtype, shapes)
    chained = CHAINED if (arch, dtype) == (90, "bfloat16") else set()
    assert {row["kernel"].split()[0] for row in rows} == EXPECTED | chained
    wrong, noted = compile_all.faults(rows)
    print(*noted, sep="\n")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "arch, dtype, shape", [(86, "float16", (256, 200)), (90, "bfloat16", (16, 16))]
)
def test_heads_that_do_not_fill_a_tile_fit(arch, dtype, shape):
    """Their masks take registers too, so that more of them spill than SPILLS says of full ones."""
    rows = compile_all.rows_of(arch, dtype, [(*shape, 1000)])
    assert {row["kernel"].split()[0] for row in rows} == EXPECTED
    for row in rows:
        assert row["registers"] and row["shared"] <= SHARED[arch] * 1024, row


def test_faults_are_found(monkeypatch):
    monkeypatch.setattr(compile_all, "SPILLS", {(86, "float32", "output_kernel", 64, 64)})
    monkeypatch.setattr("triton.__version__", f"{compile_all.TRITON}.1")
    row = {"arch": 86, "dtype": "float32", "kernel": "short_kernel", "tile": [16, 64, 64, 8, 1]}
    fine = row | {"shared": 99 * 1024, "registers": 255, "stack": compile_all.WORDS["float32"]}
    assert compile_all.faults([fine]) == ([], [])
    for change in ({"shared": 99 * 1024 + 1}, {"registers": None}, {"stack": 16}, {"stack": None}):
        wrong, noted = compile_all.faults([fine | change])
        assert len(wrong) == 1 and not noted and "sm_86 float32 short_kernel" in wrong[0]
    known = fine | {"kernel": "output_kernel FULL"}
    wrong, noted = compile_all.faults([known | {"stack": 24}, known])  # one of its forms does
    assert not wrong and "24 bytes of stack" in noted[0]
    wrong, noted = compile_all.faults([known])
    assert "spills no more" in wrong[0] and not noted
    monkeypatch.setattr("triton.__version__", "3.6.0")  # of which nobody made a list
    wrong, noted = compile_all.faults([known, fine | {"stack": 24}])
    assert not wrong and "24 bytes of stack" in noted[0]


def test_the_command_says_what_it_takes(capsys, monkeypatch):
    with pytest.raises(SystemExit, match="^0$"):
        compile_all.main(["--help"])
    assert "as 86 for sm_86" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="^2$"):
        compile_all.main(["86", "float64"])
    assert "'float64' is none of the GPUs 80, 86," in capsys.readouterr().err
    asked = []
    monkeypatch.setattr(compile_all, "rows_of", lambda *job: asked.append(job[:2]) or [])
    assert compile_all.main(["float32", "86"]) == 0 and asked == [(86, "float32")]


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
