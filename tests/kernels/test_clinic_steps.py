"""The kernels of the benchmark clinic: right, or wrong in the way that the page says."""

import pytest
import torch
from oracle import ON_GPU, randn

from kernels.steps.clinic import scale, tuned

HALF = torch.bfloat16 if ON_GPU else torch.float16


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
@pytest.mark.parametrize("n", [1, 1000, 4096, 5001])
def test_scaled(n, dtype):
    x = randn(n, dtype=dtype)
    assert torch.equal(scale.scaled(x, 3.0), (3 * x.float()).to(dtype))


def test_the_faster_one_leaves_half_of_a_16_bit_tensor(monkeypatch):
    monkeypatch.setattr(torch, "empty_like", lambda x: torch.full_like(x, float("nan")))
    for dtype, missing in ((HALF, 4096), (torch.float32, 0)):
        y = scale.scaled_faster(randn(8192, dtype=dtype), 3.0)
        assert int(torch.isnan(y).sum()) == missing
        assert torch.isfinite(y[: 8192 - missing]).all()


@pytest.mark.parametrize("n", [1, 4096, 5001])
def test_every_configuration_adds(n):
    x, y = randn(n, dtype=torch.float32, seed=0), randn(n, dtype=torch.float32, seed=1)
    for config in tuned.add_kernel.configs:
        out = torch.full_like(x, float("nan"))
        block = config.kwargs["BLOCK"]
        tuned.add_kernel.fn[(-(-n // block),)](x=x, y=y, out=out, n=n, BLOCK=block)
        assert torch.equal(out, x + y)


@pytest.mark.skipif(not ON_GPU, reason="tuning needs a GPU")
def test_it_tunes_itself():
    x, y = randn(5001, dtype=torch.float32, seed=0), randn(5001, dtype=torch.float32, seed=1)
    assert torch.equal(tuned.add(x, y), x + y)
