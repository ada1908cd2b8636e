"""The kernel of "Decoding with a constant state": roundings against PyTorch's, and in the mean."""

import ahead
import pytest
import torch
from oracle import DEVICE, ON_GPU, randn

from kernels.steps.decoding import rounded

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def inputs(H=2, N=40, D=16, DV=8):
    fk = randn(H, N, D, dtype=torch.float32, seed=0).abs()
    v = randn(H, N, DV, dtype=torch.float32, seed=1)
    s, z = torch.zeros(H, D, DV, device=DEVICE), torch.zeros(H, D, device=DEVICE)
    return fk, v, s, z


@pytest.mark.parametrize("to", DTYPES)
def test_the_state_is_rounded_after_each_token(to):
    """Bit for bit what PyTorch does with a tensor of that dtype."""
    fk, v, s, z = inputs()
    want_s, want_z = s.clone(), z.clone()
    for n in range(fk.shape[1]):
        # one multiply-add in the kernel may round once, where PyTorch rounds twice
        product = fk[:, n, :, None].double() * v[:, n, None, :].double()
        want_s = (want_s + product).float().to(DTYPES[to]).float()
        want_z = (want_z + fk[:, n]).to(DTYPES[to]).float()
    rounded.walk(fk, v, s, z, to)
    assert torch.equal(z, want_z)
    near = torch.isclose(s, want_s, rtol=0, atol=0) if to != "float32" else s.isclose(want_s)
    # a product rounded twice may fall on the other side of a tie
    assert near.float().mean() > 0.98


def test_nearest_stops_where_a_token_is_less_than_half_a_step():
    """1 added to 256 is lost: bfloat16 has eight bits. By chance it counts in the mean."""
    H, N = 1, 300
    fk, v = torch.ones(H, N, 16, device=DEVICE), torch.ones(H, N, 16, device=DEVICE)
    found = {}
    for to in rounded.ROUNDINGS:
        s, z = torch.zeros(H, 16, 16, device=DEVICE), torch.zeros(H, 16, device=DEVICE)
        rounded.walk(fk, v, s, z, to, seed=3)
        found[to] = z
    assert (found["bfloat16"] == 256).all()
    assert (found["float32"] == N).all() and (found["float16"] == N).all()
    assert abs(found["stochastic"].mean().item() / N - 1) < 0.02
    assert found["stochastic"].unique().numel() > 1


def test_the_state_goes_on_from_what_it_was():
    fk, v, s, z = inputs()
    whole_s, whole_z = s.clone(), z.clone()
    rounded.walk(fk, v, whole_s, whole_z, "float32")
    for part in (slice(0, 17), slice(17, None)):
        rounded.walk(fk[:, part].contiguous(), v[:, part].contiguous(), s, z, "float32")
    assert torch.equal(s, whole_s) and torch.equal(z, whole_z)


def test_exact_is_the_sum():
    fk, v, s, z = inputs(N=50)
    s, z = s.double(), z.double()
    rounded.exact(fk, v, s, z, rows=16)
    assert torch.allclose(s, torch.einsum("hnd,hne->hde", fk.double(), v.double()))
    assert torch.allclose(z, fk.double().sum(1))


def test_bad_input_is_named():
    fk, v, s, z = inputs()
    with pytest.raises(ValueError, match="allowed are float32"):
        rounded.walk(fk, v, s, z, "float8")
    with pytest.raises(ValueError, match="contiguous"):
        rounded.walk(fk[:, ::2], v, s, z, "float32")


PROGRAM = """
import json, sys
import ahead
import torch

compiled = ahead.instead_of_launching(json.loads(sys.argv[1]))
from kernels.steps.decoding import rounded

fk, v, s, z = (torch.zeros(2, 64, 64) for _ in "abcd")
for to in rounded.ROUNDINGS:
    rounded.walk(fk, v, s, torch.zeros(2, 64), to)
print(json.dumps({name: kernel.metadata.shared for name, kernel in compiled.items()}))
"""


COMPILED = {"decoding.rounded"}


@pytest.mark.skipif(ON_GPU, reason="launches are compiled ahead of time where there is no GPU")
@pytest.mark.parametrize("arch", [75, 80, 90])
def test_it_compiles(arch):
    shared = ahead.run(PROGRAM, arch)
    assert ahead.modules(shared) == COMPILED
    assert max(shared.values()) <= 64 * 1024
