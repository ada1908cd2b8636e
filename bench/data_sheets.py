"""What the makers' data sheets say, in B/s and FLOP/s: for predictions, never for results.

Dense rates; the data sheets of Hopper print twice as much, for matrices of which half is zero.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSheet:
    """Peak rates of a GPU: memory [B/s], 16-bit matrix products and float32 arithmetic [FLOP/s]."""

    bandwidth: float
    matrix: float
    float32: float


SHEETS = {
    "NVIDIA H200": DataSheet(4.8e12, 989e12, 67e12),
    "NVIDIA H100 80GB HBM3": DataSheet(3.35e12, 989e12, 67e12),
    "NVIDIA A100-SXM4-80GB": DataSheet(2.039e12, 312e12, 19.5e12),
    "NVIDIA A100-SXM4-40GB": DataSheet(1.555e12, 312e12, 19.5e12),
    "Tesla T4": DataSheet(0.32e12, 65e12, 8.1e12),
}


def of(gpu: str) -> DataSheet | None:
    """The data sheet of a GPU by the name that PyTorch gives it; None where it is not known."""
    return SHEETS.get(gpu)
