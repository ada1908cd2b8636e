"""The probes of the memory chapter do what they say: a clock that times them times just that."""

import re

import ahead
import pytest
import torch
from oracle import DEVICE, randn

from kernels.steps.memory import (
    arguments,
    banks,
    chase,
    copy,
    in_flight,
    intensity,
    read,
    stride,
    transpose,
    waves,
)


def test_copy():
    x = randn(3 * copy.BLOCK)
    assert torch.equal(copy.copy(x), x)
    out = torch.zeros_like(x)
    assert copy.copy(x, out).data_ptr() == out.data_ptr() and torch.equal(out, x)


@pytest.mark.parametrize("cache", ["", ".cg"])
@pytest.mark.parametrize("programs, turns, blocks", [(2, 3, 6), (2, 3, 3), (3, 2, 4), (4, 2, 2)])
def test_read_walks_through_the_blocks_and_begins_again(programs, turns, blocks, cache):
    x = randn(blocks * read.BLOCK)
    each = x.view(blocks, read.BLOCK).double().sum(1)
    want = [sum(each[(p + t * programs) % blocks] for t in range(turns)) for p in range(programs)]
    got = read.read(x, programs, turns, cache)
    torch.testing.assert_close(got.double(), torch.stack(want), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("step", [1, 2, 5])
def test_stride(step):
    elements = 2 * stride.BLOCK
    x = randn(elements * step)
    got = stride.read_strided(x, step, elements)
    want = x[::step].view(2, stride.BLOCK).double().sum(1)
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("lines, chunk", [(50, None), (64, 16), (8, 16)])
def test_a_cycle_meets_every_line_once(lines, chunk):
    chain = chase.cycle(lines, DEVICE, chunk).tolist()
    place, seen = 0, []
    for _ in range(lines):
        seen.append(place)
        place = chain[place]
    assert place == 0
    assert sorted(seen) == [line * chase.LINE for line in range(lines)]
    changes = sum(a // 512 != b // 512 for a, b in zip(seen, [*seen[1:], seen[0]], strict=True))
    if chunk == 16 and lines == 64:  # 512 elements are 16 lines
        assert changes <= 5  # once for each chunk, and once more if it began inside of one


def test_chase_ends_where_the_chain_leads():
    chain = chase.cycle(20, DEVICE)
    place = 0
    for steps in range(1, 25):
        place = chain[place].item()
        assert chase.chase(chain, steps).item() == place
    assert chase.chase(chain, 3, place).item() == chain[chain[chain[place]]].item()


@pytest.mark.parametrize("programs, steps, block", [(1, 4, 256), (3, 2, 512)])
def test_in_flight_visits_every_element(programs, steps, block):
    zeros = torch.zeros(programs * steps * block, dtype=torch.int32, device=DEVICE)
    got = in_flight.read_waiting(zeros, programs, steps, block)
    first = torch.arange(block, device=DEVICE).sum()
    hop = programs * block
    want = [(first + block * (p * block + steps * hop)).item() for p in range(programs)]
    assert got.tolist() == want
    zeros[-1] = 7  # read by the last step of the last program
    got = in_flight.read_waiting(zeros, programs, steps, block)
    assert got.tolist() == [*want[:-1], want[-1] + 7]


def test_waves():
    got = waves.work(3, turns=4, device=DEVICE)
    x = torch.arange(waves.BLOCK, dtype=torch.float64)
    for _ in range(4):
        x = x * 0.5 + 1
    torch.testing.assert_close(got.double().cpu(), x.sum().expand(3), rtol=1e-5, atol=0)


@pytest.mark.parametrize("count", [1, 2, 30])
def test_each_argument_is_added(count):
    out = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    want = sum(2**40 + 1 + 2 * i for i in range(count))
    assert arguments.total(count, out) is out and out.item() == want


@pytest.mark.parametrize("tile", [(1, 64), (8, 8), (64, 2), (16, 32)])
def test_transpose(tile):
    x = randn(64, 128)
    y = transpose.transpose(x, *tile)
    assert y.is_contiguous() and torch.equal(y, x.mT)


@pytest.mark.parametrize("step", [0, 1, 32, 33])
def test_gather_reads_where_it_should(step):
    zeros = torch.zeros(banks.TABLE, dtype=torch.int32, device=DEVICE)
    index = torch.arange(banks.READS) * step % banks.TABLE
    assert banks.gather(zeros, 2, 3, step).tolist() == [index.sum().item()] * 2
    one = (step * 3) % banks.TABLE
    zeros[one] = 1 if step else 0
    hits = (index == one).sum().item() if step else 0
    assert banks.gather(zeros, 1, 1, step).tolist() == [index.sum().item() + hits]


@pytest.mark.parametrize("turns", [0, 1, 7])
def test_copy_and_compute(turns):
    x = randn(2 * intensity.BLOCK)
    want = x.double()
    for _ in range(turns):
        want = want * 0.5 + 1
    torch.testing.assert_close(intensity.copy_and_compute(x, turns).double(), want)


COMPILE = """
import json, sys
import ahead
import torch

compiled = ahead.instead_of_launching(json.loads(sys.argv[1]))
from kernels.steps.memory import *

x = torch.zeros(2**14)
whole = torch.zeros(2**14, dtype=torch.int32)
copy.copy(x)
read.read(x, 2, 3, ".cg")
past_l1 = compiled.pop("kernels.steps.memory.read.read_kernel")
read.read(x, 2, 3)
stride.read_strided(x, 3, 1024)
chase.chase(whole, 5)
in_flight.read_waiting(whole, 2, 2, 512)
waves.work(2, 3, "cpu")
transpose.transpose(x.view(128, 128), 16, 16)
banks.gather(whole, 2, 3, 5)
intensity.copy_and_compute(x, 3)
arguments.total(100, whole.long())
made = {name.split(".")[-1]: (name, kernel) for name, kernel in compiled.items()}
made["read_kernel.cg"] = (made["read_kernel"][0], past_l1)
print(json.dumps({
    short: {"name": name, "shared": kernel.metadata.shared, "ptx": kernel.asm["ptx"]}
    for short, (name, kernel) in made.items()
}))
"""
PROBES = "arguments banks chase copy in_flight intensity read stride transpose waves".split()
COMPILED = {f"memory.{name}" for name in PROBES}


@pytest.fixture(scope="module", params=[75, 90], ids="sm_{}".format)
def compiled(request):
    """{kernel: {"shared": bytes, "ptx": text}} for a T4 and an H100; no GPU is needed."""
    return ahead.run(COMPILE, request.param)


def test_probes_compile(compiled):
    assert len(compiled) == 11
    assert ahead.modules(made["name"] for made in compiled.values()) == COMPILED
    assert max(made["shared"] for made in compiled.values()) <= 64 * 1024


def test_the_compiler_leaves_what_is_to_be_timed(compiled):
    """A load that nobody needs, or one loaded once for all turns, would time nothing."""

    def loops(name):
        """The text of the loops: from a label that is jumped back to, to that jump."""
        text = compiled[name]["ptx"]
        found = ""
        for label in {line.split(":")[0] for line in text.splitlines() if line.startswith("$L__")}:
            begin, end = text.find(f"{label}:"), text.rfind(f"bra {label};")
            end = text.rfind(f"bra \t{label};") if end < 0 else end
            found += text[begin:end] if end > begin else ""
        return found

    assert "ld.global" in loops("read_kernel") and ".cg" in loops("read_kernel.cg")
    assert "ld.global" in loops("chase_kernel")
    assert "ld.global" in loops("in_flight_kernel")
    assert "ld.shared" in loops("gather_kernel")
    assert "fma" in loops("work_kernel") and "fma" in loops("intensity_kernel")
    assert "v4" in compiled["copy_kernel"]["ptx"]
    taken = set(re.findall(r"ld\.param\.\S+\s+[^;]*?_param_(\d+)", compiled["sum_kernel"]["ptx"]))
    assert len(taken) == 101, "an argument that is not looked at might not be handed over"
    assert "ld.global" in compiled["stride_kernel"]["ptx"]
