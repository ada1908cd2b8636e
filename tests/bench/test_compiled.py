"""Kernels are compiled for a GPU that is not there, and what is said of them is true."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict

import pytest
import torch

from bench import compiled
from bench.errors import BenchError
from bench.hardware import ROOT
from kernels.steps.basics import vector_add

TYPES = {"x": "*fp32", "y": "*fp32", "out": "*fp32", "n": "i32"}


@pytest.fixture(scope="module")
def pair():
    """The vector sum for an H100: everything a multiple of 16, and nothing known."""
    specs = [
        compiled.Spec.of(vector_add.add_kernel, TYPES, {"BLOCK": 1024}, aligned, num_warps=4)
        for aligned in (None, ())
    ]
    return compiled.ahead(specs)


def test_every_stage_is_there(pair):
    known, _ = pair
    assert {"ttir", "ttgir", "llir", "ptx"} <= set(known.stages)
    assert known.num_warps == 4 and known.shared == 0
    assert "tt.load" in known.stages["ttir"] and "#blocked" in known.stages["ttgir"]
    assert known.lines("ttir") < known.lines("ptx")


def test_alignment_decides_the_width_of_loads(pair):
    known, unknown = pair
    assert "ld.global.v4.b32" in known.stages["ptx"]
    assert "ld.global.v4" not in unknown.stages["ptx"]
    if "sass" not in known.stages:
        pytest.skip("nvdisasm is not here")
    assert known.opcodes()["LDG.E.128"] == 4 and unknown.opcodes()["LDG.E"] == 16
    assert known.mix()["load from global memory"] == 4
    assert known.mix()["float32 add, multiply, fused"] == 8
    assert known.mix()["tensor core"] == 0
    assert 16 <= known.registers <= 64 and known.local == 0


HERE = """
import json, sys
from dataclasses import asdict
from bench import compiled
from bench.errors import BenchError

del compiled._python  # no other process takes part
*right, wrong = (compiled.Spec(**spec) for spec in json.load(sys.stdin))
print(json.dumps([asdict(x) for x in compiled.ahead(right)]))
try:
    compiled.ahead([wrong])
except BenchError as problem:
    print(problem)
"""


def test_where_kernels_are_not_interpreted_this_process_compiles(pair):
    specs = [
        compiled.Spec.of(vector_add.add_kernel, TYPES, {"BLOCK": block}, aligned, num_warps=4)
        for block, aligned in ((1024, None), (1024, ()), (1000, None))
    ]
    environment = {n: x for n, x in os.environ.items() if n != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", HERE], input=json.dumps([asdict(s) for s in specs]), text=True,
        env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, check=True,
    )  # fmt: skip
    made, said = run.stdout.splitlines()
    assert [compiled.Compiled(**x) for x in json.loads(made)] == pair
    assert said.startswith("The compiler could not be run here: ")


def test_a_backward_pass_stays_in_the_thread_that_asks_for_it():
    here = []
    compiled.at_once(2 * [lambda: here.append(torch._C._is_multithreading_enabled())])
    assert here == [False, False] and torch._C._is_multithreading_enabled()


def test_calls_are_made_at_once_and_what_fails_is_left():
    barrier = threading.Barrier(3, timeout=60)
    done = []

    def call(n):
        barrier.wait()
        done.append(1 // n)

    compiled.at_once([lambda: done.append(0), *(lambda n=n: call(n) for n in (0, 1, 1))])
    assert done == [0, 1, 1], "the first one alone, and before the others"


def test_bare_text_has_no_debugging_information(pair):
    for stage, text in pair[0].stages.items():
        lines = compiled.bare(text, stage)
        assert lines and not any("loc(" in x or ".loc" in x or "#loc" in x for x in lines)


def test_excerpts_are_short_and_say_what_they_leave_out():
    text = "\n".join(f"\tld.global.b32 %r{i}, [%rd{i}];" for i in range(5)) + "\n\tadd.f32 a, b;"
    found = compiled.Compiled({"ptx": text}, 4, 0)
    lines = found.excerpt("ptx", r"ld\.\S*|add\.f32", each=2, width=20).splitlines()
    assert lines[2].strip() == "… 3 more with ld.global.b32"
    assert len(lines) == 4 and lines[3] == "add.f32 a, b;"
    assert all(len(x) <= 20 for x in lines[:2])
    assert found.excerpt("sass", "x") == "" and found.lines("sass") is None


@pytest.mark.parametrize(
    ("line", "opcode"),
    [
        ("/*0180*/  @!P0 LDG.E.128 R16, desc[UR4][R2.64] ;", "LDG.E.128"),
        ("        /*01c0*/                   FADD R12, R12, R16 ;", "FADD"),
        ("/*2fc0*/ HGMMA.64x256x16.F32.BF16 R24, gdesc[UR8], R24 ;", "HGMMA.64x256x16.F32.BF16"),
        ("/*0010*/ @P1 EXIT ;", "EXIT"),
    ],
)
def test_opcodes_are_read(line, opcode):
    found = compiled.Compiled({"sass": line + "\n.L_x_0:\n"}, 4, 0)
    assert list(found.opcodes()) == [opcode]


def test_what_cannot_be_compiled_ends_in_one_sentence():
    spec = compiled.Spec.of(vector_add.add_kernel, TYPES, {"BLOCK": 1000})
    with pytest.raises(BenchError, match="could not be run here"):
        compiled.ahead([spec])


def test_without_tools_the_rest_is_still_there(monkeypatch):
    class kernel:
        asm = {"ttir": "a", "cubin": b"x"}
        metadata = type("m", (), {"num_warps": 2, "shared": 8})

    monkeypatch.setattr(compiled, "tool", lambda *a: None)
    found = compiled.describe(kernel)
    assert found == compiled.Compiled({"ttir": "a"}, 2, 8, None, None)


def test_a_module_runs_in_the_interpreter():
    text = compiled.interpret("kernels.steps.basics.watched")
    assert "[5.0, 5.0, 5.0]" in text and "[8. 8. 8. 8. 8. 0. 0. 0.]" in text


def test_launches_are_caught_and_given_back():
    class Kernel:
        def run(self, n):
            return n + 1

    kernel = Kernel()
    with compiled.caught(kernel) as ran:
        assert kernel.run(1) == 2
    kernel.run(5)
    assert ran == [2] and "run" not in vars(kernel)
