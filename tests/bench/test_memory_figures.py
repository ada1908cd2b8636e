"""Figures of the memory, the limits of a multiprocessor, and the data sheets."""

import pytest

from bench import data_sheets, memory_figures, occupancy
from bench.diagrams import Axis


def test_sizes_are_in_binary_units():
    sizes = [512, 2**10, 1536, 2**20, 3 * 2**29]
    assert [memory_figures.size(n) for n in sizes] == [
        "512\u00a0B", "1\u00a0KiB", "1.5\u00a0KiB", "1\u00a0MiB", "1.5\u00a0GiB",
    ]  # fmt: skip


def test_axes_have_ticks_where_they_say():
    assert list(memory_figures.bytes_axis("b", 2**13, 2**21).ticks) == [2**16, 2**20]
    assert list(memory_figures.decades_axis("t", 0.02, 150).ticks) == [0.01, 0.1, 1, 10, 100, 1000]
    assert Axis("x", words=True).layout()["type"] == "category"
    assert "rangemode" not in Axis("x", zero=False).layout()


@pytest.mark.parametrize(
    "step, first, count", [(1, 0, 4), (2, 0, 8), (8, 0, 32), (32, 0, 32), (1, 5, 5), (0, 0, 1)]
)
def test_sectors_of_a_warp(step, first, count):
    addresses = [4 * (first + lane * step) for lane in range(32)]
    assert len(memory_figures.sectors(addresses)) == count


def test_a_word_across_a_border_touches_two_sectors():
    assert memory_figures.sectors([30]) == {0, 1}


def test_the_map_of_a_warp_marks_what_is_asked_and_what_comes_along():
    figure = memory_figures.warp_map({"eighth": (8, 0), "neighbours": (1, 0)})
    eighth, neighbours = figure.data[0]["z"], figure.data[1]["z"]
    assert eighth[0] == ([2] + [1] * 7) * 4
    assert neighbours[0] == [2] * 32 and not any(map(any, neighbours[1:]))
    assert "32 sectors, 1024 bytes" in figure.alts["0"]
    assert "4 sectors, 128 bytes" in figure.alts["1"]


def test_the_map_of_a_tile_counts_turns():
    rows = range(32)
    figure = memory_figures.tile_map({
        "plain": [[32 * r + c for c in rows] for r in rows],
        "padded": [[33 * r + c for c in rows] for r in rows],
        "swizzled": [[32 * r + (c ^ r) for c in rows] for r in rows],
    })  # fmt: skip
    assert [a.split("takes ")[1] for a in figure.alts.values()] == [
        "32 turns.", "1 turns.", "1 turns.",
    ]  # fmt: skip
    assert len(figure.data[1]["z"]) == 33


def test_bars_of_banks():
    figure = memory_figures.bank_bars([1, 32, 33, 6])
    assert [max(t["y"]) for t in figure.data] == [1, 32, 1, 2]
    assert all(sum(t["y"]) == 32 for t in figure.data)
    assert figure.switches[0].options == [
        "1 (1 turn)",
        "32 (32 turns)",
        "33 (1 turn)",
        "6 (2 turns)",
    ]


def test_levels_are_drawn_in_order():
    drawing = memory_figures.levels([("a & b", "here", "1 KiB"), ("c", "there", "2 MiB")])
    assert "a &amp; b" in drawing.svg and drawing.svg.index("here") < drawing.svg.index("there")
    assert drawing.alt == "From near to far: a & b, here, 1 KiB; c, there, 2 MiB."


# --- occupancy ----------------------------------------------------------------------------------


def least(*a, **k):
    return min(occupancy.resident(occupancy.LIMITS["9.0"], *a, **k).values())


@pytest.mark.parametrize(
    "warps, registers, kib, programs",
    [
        (1, 0, 0, 32),  # the number of programs
        (8, 0, 0, 8),  # warps
        (4, 128, 0, 4),  # 128 * 128 = 2**14 of 2**16 registers
        (4, 129, 0, 3),  # rounded up to 136 a lane
        (4, 255, 0, 2),
        (4, 0, 227, 1),
        (4, 0, 113, 2),
        (4, 0, 114, 1),  # 1 KiB is the system's
    ],
)
def test_the_tightest_limit_decides(warps, registers, kib, programs):
    assert least(warps, registers, kib * 1024) == programs


def test_every_limit_is_named():
    fits = occupancy.resident(occupancy.LIMITS["7.5"], 4, 64, 16 * 1024)
    assert fits == {"programs": 16, "warps": 8, "registers": 8, "shared memory": 3}


# --- data sheets --------------------------------------------------------------------------------


def test_an_h200_is_an_h100_with_another_memory():
    old, new = (data_sheets.SHEETS[f"NVIDIA {n}"] for n in ("H100 80GB HBM3", "H200"))
    assert (old.matrix, old.float32) == (new.matrix, new.float32)
    assert new.bandwidth / old.bandwidth == pytest.approx(1.43, abs=0.01)
    assert data_sheets.of("NVIDIA H200") is new and data_sheets.of("unknown") is None
