"""Crossovers that are known are found, and what does not cross has none."""

import math

import pytest

from bench import crossover

LENGTHS = [2**i for i in range(9, 17)]


def test_straight_lines_cross_where_they_should():
    slow = [n**2 * 1e-9 for n in LENGTHS]
    fast = [n * 3e-6 for n in LENGTHS]
    assert crossover.crossing(LENGTHS, slow, fast) == pytest.approx(3000)


def test_the_last_crossing_counts():
    slow = [1, 3, 1, 3]
    assert crossover.crossing([1, 2, 4, 16], slow, [2, 2, 2, 2]) > 4


def test_no_crossing_between_the_lengths_is_none():
    assert crossover.crossing([1, 2], [3, 4], [1, 1]) is None
    assert crossover.crossing([1, 2], [1, 1], [3, 4]) is None


def test_even_at_a_measured_length():
    assert crossover.crossing([512, 1024], [1, 4], [2, 4]) == pytest.approx(1024)


def test_the_model_solves_its_equation():
    n = crossover.modelled(2e-12, 3e-9, 1e-5)
    assert 2e-12 * n**2 == pytest.approx(1e-5 + 3e-9 * n)
    assert crossover.modelled(2e-12, 3e-9) == pytest.approx(1500)
    assert crossover.modelled(1.0, 1.0, -9.0) == 0.0  # ahead from the start
    assert math.isfinite(crossover.modelled(1.0, 0.0, 0.0))
