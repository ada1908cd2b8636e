"""float32 is multiplied in float32, in pieces that fit the registers."""

import pytest
import torch
import triton
import triton.language as tl
from oracle import DEVICE, ON_GPU

from kernels import configs, linear_attention, reference
from kernels.bidirectional import dot
from kernels.launch import forget


@triton.jit
def dot_kernel(
    a,  # [M, K] float32
    b,  # [K, N] float32
    c,  # [M, N] float32, written
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    offs_m, offs_n, offs_k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    b_a = tl.load(a + offs_m[:, None] * K + offs_k[None, :])  # [M, K]
    b_b = tl.load(b + offs_k[:, None] * N + offs_n[None, :])  # [K, N]
    if ADD:
        b_c = dot(b_a, b_b, "ieee", tl.full([M, N], 2.0, dtype=tl.float32))
    else:
        b_c = dot(b_a, b_b, "ieee")
    tl.store(c + offs_m[:, None] * N + offs_n[None, :], b_c)


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize(
    "shape", [(16, 16, 16), (16, 32, 32), (32, 16, 64), (16, 16, 256), (16, 1, 128), (1, 64, 16)]
)
def test_a_product_of_any_form_is_exact_to_float32(shape, add):
    M, N, K = shape
    generator = torch.Generator().manual_seed(K)
    a = torch.randn(M, K, generator=generator).to(DEVICE)
    b = torch.randn(K, N, generator=generator).to(DEVICE)
    c = torch.full((M, N), float("nan"), device=DEVICE)
    dot_kernel[(1,)](a, b, c, M=M, N=N, K=K, ADD=add)
    want = a.double() @ b.double() + (2.0 if add else 0.0)
    assert (c - want).abs().max() < 2e-6 * want.abs().max()


@pytest.fixture
def tiles_of_a_gpu(monkeypatch):
    """The interpreter takes the tiles that a GPU takes."""
    if not ON_GPU:
        monkeypatch.setattr(configs, "hardware", lambda device: (86, 8))
    forget()
    yield
    forget()


@pytest.mark.parametrize("short", [0, 1024], ids=["long", "short"])
@pytest.mark.parametrize("shape", [(2, 1, 70, 40, 36), (1, 1, 35, 130, 40)], ids=str)
@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
def test_the_tiles_of_a_gpu(causal, shape, short, tiles_of_a_gpu, monkeypatch):
    monkeypatch.setattr(configs, "SHORT", short)
    H, Hk, N, D, Dv = shape
    generator = torch.Generator().manual_seed(N)
    q, k, v, do = (
        torch.randn(1, h, N, d, generator=generator).to(DEVICE)
        for h, d in ((H, D), (Hk, D), (Hk, Dv), (H, Dv))
    )

    def run(function, q, k, v, do):
        q, k, v = (x.requires_grad_() for x in (q, k, v))
        o = function(q, k, v, causal=causal, enable_gqa=True)
        return o, *torch.autograd.grad(o, (q, k, v), do)

    truth = run(reference.chunked, *(x.double() for x in (q, k, v, do)))
    for got, want in zip(run(linear_attention, q, k, v, do), truth, strict=True):
        assert (got - want).abs().max() < 2e-6 * want.abs().max()
