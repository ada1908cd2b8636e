"""The published table, and the argument for which batch it can be of."""

import pytest

from bench import original


def test_the_published_table():
    rows = original.table().rows
    assert [r[0] for r in rows] == ["4K", "8K", "16K", "32K", "64K"]
    assert rows[-1] == ["64K", "71.4", "1.43", "49.9"]
    assert "A100 40GB" in original.table().caption


@pytest.mark.parametrize(
    ("column", "B", "verdict"),
    [("sdpa", 8, "impossible"), ("sdpa", 1, "possible"), ("linear", 1, "possible")],
)
def test_what_each_column_needs(column, B, verdict):
    assert original.need(column, B).verdict == verdict


def test_the_numbers_of_the_argument():
    """By hand: 4 (N2² - N1²) B H D FLOPs in the difference of the times, 8 N B H D bytes."""
    pairs = 65536**2 - 32768**2
    assert original.need("sdpa", 8).rate == pytest.approx(4 * pairs * 8 * 8 * 64 / 53.37e-3)
    assert original.need("sdpa", 8).share == pytest.approx(3.17, rel=0.01)
    moved = 4 * 2 * 32768 * 8 * 8 * 64
    assert original.need("linear", 8).rate == pytest.approx(moved / 0.69e-3)
    assert original.need("linear", 8).share == pytest.approx(1.0, rel=0.01)
    assert original.need("linear", 1).share == pytest.approx(0.125, rel=0.01)
    with pytest.raises(ValueError, match="sdpa"):
        original.need("cubic", 1)
    assert len(original.argument().rows) == 4


def test_beside_a_record(record, make_record):
    table = original.beside(record)
    assert table.rows[0][0] == "4K"
    assert table.rows[-1][1] == "49.9"
    assert table.rows[1][2:] == ["–"] * 6, "8K is not in this record"
    assert float(table.rows[-1][4]) > 100
    assert set(original.reached(record).values()) == {None}, "not an H100"
    h100 = make_record(gpu="NVIDIA H100 80GB HBM3")
    assert all(ratio > 0 for ratio in original.reached(h100).values())


@pytest.mark.parametrize("who", [None, "book", "sdpa-cudnn"])
def test_an_unsteady_time_reaches_nothing(make_record, shake, who):
    h100 = shake(make_record(gpu="NVIDIA H100 80GB HBM3"), who)
    assert set(original.reached(h100).values()) == {None}
    table = original.beside(h100)
    assert [table.rows[-1][i] for i in (4, 7)] == ["void"] * 2
    assert "void stands for" in table.caption and "† Unsteady" in table.caption
    assert table.rows[-1][1] == "49.9", "what was published says nothing of its spread"
