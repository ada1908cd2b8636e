"""Exponents and fixed times from measured times, with an interval that says how sure they are."""

from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000


@dataclass(frozen=True)
class Fit:
    """An estimate and the interval that holds 95 percent of resampled ones."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def exponent(lengths, times, seed: int = 0) -> Fit:
    """p in time ∝ Nᵖ: the slope of a straight line through the logarithms.

    The interval is a bootstrap's: points are drawn with replacement and the line is fitted again.
    Raises ValueError for fewer than three lengths, or times that are not above 0.
    """
    x, y = _logarithms(lengths, times)
    generator = np.random.default_rng(seed)
    slopes = []
    while len(slopes) < RESAMPLES:
        pick = generator.integers(len(x), size=len(x))
        if len(set(pick)) > 1:  # a line needs two points
            slopes.append(_slope(x[pick], y[pick]))
    low, high = np.percentile(slopes, [2.5, 97.5])
    return Fit(_slope(x, y), float(low), float(high))


def local_exponents(lengths, times) -> list[float]:
    """The slope between each two neighbours, on logarithmic axes."""
    x, y = _logarithms(lengths, times, least=2)
    return [float(s) for s in np.diff(y) / np.diff(x)]


def fixed_and_slope(work, times) -> tuple[float, float]:
    """(fixed, slope) of time = fixed + slope · work, by least squares of relative misses.

    Relative, because times span orders of magnitude and each of them is to count as much.
    """
    work, times = np.asarray(work, float), np.asarray(times, float)
    if len(work) < 2 or (times <= 0).any():
        raise ValueError("it takes two times or more, all above 0")
    scaled = np.stack([1 / times, work / times], 1)
    (fixed, slope), *_ = np.linalg.lstsq(scaled, np.ones(len(times)), rcond=None)
    return float(fixed), float(slope)


def _logarithms(lengths, times, least: int = 3):
    x, y = np.asarray(lengths, float), np.asarray(times, float)
    if len(x) != len(y) or len(set(x)) < least or (x <= 0).any() or not (y > 0).all():
        raise ValueError(f"it takes {least} lengths or more, and times above 0")
    return np.log(x), np.log(y)


def _slope(x, y) -> float:
    x = x - x.mean()
    return float((x * (y - y.mean())).sum() / (x * x).sum())
