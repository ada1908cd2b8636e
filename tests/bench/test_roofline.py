"""The model: bytes and FLOPs of the shapes which the book names."""

import pytest

from bench.roofline import FORWARD, FORWARD_BACKWARD, Shape, ideal_bytes, ideal_flops, least_ms


def test_bytes_are_4_and_11_tensors():
    shape = Shape(8, 8, 65536)
    tensor = 8 * 8 * 65536 * 64 * 2
    assert ideal_bytes(shape, FORWARD) == 4 * tensor
    assert ideal_bytes(shape, FORWARD_BACKWARD) == 11 * tensor
    assert ideal_bytes(Shape(1, 1, 10, D=3, Dv=5, dtype="float32"), FORWARD) == 4 * 10 * (6 + 10)


def test_softmax_flops_are_quadratic_and_half_when_causal():
    shape, longer = Shape(1, 1, 1024), Shape(1, 1, 2048)
    assert ideal_flops(shape, FORWARD, "softmax") == 4 * 1024**2 * 64
    assert ideal_flops(longer, FORWARD, "softmax") == 4 * ideal_flops(shape, FORWARD, "softmax")
    both = ideal_flops(shape, FORWARD_BACKWARD, "softmax")
    assert both == 3.5 * ideal_flops(shape, FORWARD, "softmax")
    causal = ideal_flops(Shape(1, 1, 1024, causal=True), FORWARD, "softmax")
    assert causal == 4 * 64 * 1024 * 1025 / 2


def test_linear_flops_are_linear():
    for causal in (False, True):
        shape, longer = (Shape(1, 2, n, causal=causal) for n in (1024, 2048))
        for work in (FORWARD, FORWARD_BACKWARD):
            assert ideal_flops(longer, work, "linear") == 2 * ideal_flops(shape, work, "linear")
    assert ideal_flops(Shape(1, 1, 1024), FORWARD, "linear") == 4 * 1024 * 64 * 64


def test_unknown_family():
    with pytest.raises(ValueError, match="allowed are"):
        ideal_flops(Shape(1, 1, 1), FORWARD, "cubic")


def test_roofline_takes_the_larger():
    assert least_ms(3e9, 1e9, bandwidth=3e12, rate=1e15) == 1.0
    assert least_ms(3, 2e12, bandwidth=3e12, rate=1e15) == 2.0
