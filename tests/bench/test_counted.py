"""What chapters 7 and 9 count, whether or not there is a GPU."""

import pytest

from bench import counted
from bench.errors import BenchError


def test_a_loop_over_a_part_loads_its_state_once():
    found = counted.apart("steps", names=["columns", "looped"], N=256)
    assert {n: f["q"] for n, f in found.items()} == {"columns": 1, "looped": 1}
    assert found["columns"]["states"] == 4 * found["looped"]["states"]  # a tile has 64 rows


def test_the_backward_pass_moves_what_is_drawn():
    found = counted.apart("backward")
    assert found == {"bidirectional": 7, "causal": 14.75}  # of 15; see tests/bench/test_passes.py


def test_a_count_that_fails_is_no_number():
    with pytest.raises(BenchError, match="steps could not be counted"):
        counted.apart("steps", names=["no such step"])
