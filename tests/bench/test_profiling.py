"""Profiles: instruction classes, sums of events, counters, and what is said without them."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from bench import cli, contenders, fresh, hardware, profiling, reports, studies
from bench.errors import BenchError
from bench.hardware import Provenance
from bench.roofline import FORWARD, Shape, ideal_bytes
from bench.studies import profile as study

GPU = Provenance("Made-up GPU 1", "made-up-gpu-1", "2026-01-02T03:04:05Z", "x", "3.12", "2.11")

SASS = """
        Function : made_up_kernel
        /*0000*/                   LDC R1, c[0x0][0x28] ;                 /* 0x00000a00ff017b82 */
                                                                          /* 0x000e620000000800 */
        /*0010*/                   IMAD.MOV.U32 R0, RZ, RZ, R2 ;          /* 0x00000a00ff017b82 */
        /*0020*/                   LDGSTS.E.BYPASS.128 [R5], [R2.64] ;    /* 0x00000a00ff017b82 */
        /*0030*/                   FADD R1, R2, R3 ;                      /* 0x00000a00ff017b82 */
        /*0040*/              @!P0 BRA 0x30 ;                             /* 0x00000a00ff017b82 */
        /*0050*/                   HGMMA.64x64x16.F32.BF16 R24, gdesc ;   /* 0x00000a00ff017b82 */
        /*0060*/                   MUFU.EX2 R1, R1 ;                      /* 0x00000a00ff017b82 */
        /*0070*/              @P1  FMUL R1, R1, R2 ;                      /* 0x00000a00ff017b82 */
        /*0080*/             @!UP0 UIADD3 UR4, UR4, 0x1, URZ ;            /* 0x00000a00ff017b82 */
        /*0090*/               @P0 BRA 0x50 ;                             /* 0x00000a00ff017b82 */
        /*00a0*/                   STL [R1], R4 ;                         /* 0x00000a00ff017b82 */
        /*00b0*/               @P0 BRA 0x20 ;                             /* 0x00000a00ff017b82 */
        /*00c0*/                   EXIT ;                                 /* 0x00000a00ff017b82 */
        /*00d0*/                   BRA 0xd0;                              /* 0x00000a00ff017b82 */
"""


def test_instructions_by_class_and_those_of_the_main_loop():
    mix = profiling.instructions(SASS)
    assert mix["all"].total() == 14
    assert mix["all"]["tensor cores"] == 1
    assert mix["all"]["moves"] == 2, "IMAD.MOV moves, and multiplies nothing"
    assert mix["all"]["local memory"] == 1
    assert mix["all"]["control"] == 5
    assert mix["loop"] == {
        "tensor cores": 1,
        "special functions": 1,
        "floating point": 1,
        "uniform": 1,
        "control": 1,
    }


@pytest.mark.parametrize(
    ("opcode", "kind"),
    [
        ("HGMMA.64x64x16.F32.BF16", "tensor cores"),
        ("UTMALDG.2D", "asynchronous copy"),
        ("LDG.E.128", "global memory"),
        ("STS.128", "shared memory"),
        ("F2FP.BF16.F32.PACK_AB", "conversion"),
        ("HFMA2.BF16_V2", "floating point"),
        ("IMAD.WIDE", "integers and addresses"),
        ("IMAD.MOV.U32", "moves"),
        ("UIADD3", "uniform"),
        ("WARPGROUP.ARRIVE", "synchronization"),
        ("XYZ", "other"),
    ],
)
def test_classes(opcode, kind):
    assert profiling.kind_of(opcode) == kind


def test_every_opcode_has_one_class():
    opcodes = [op for names in profiling.SASS.values() for op in names.split()]
    assert len(opcodes) == len(set(opcodes))


def test_no_code_has_no_loop():
    assert profiling.instructions("")["loop"].total() == 0


PTX = """
\twgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%f1}, %rd1;
\t@%p1 cp.async.cg.shared.global [ %r1 + 0 ], [ %rd2 + 0 ], 0x10, %r3;
\t@!%p2 bra $L__BB0_1;
\tex2.approx.ftz.f32 %f2, %f3;
\t// a comment
$L__BB0_1:
"""


def test_ptx_opcodes():
    found = profiling.ptx_opcodes(PTX)
    assert found["wgmma.mma_async"] == found["cp.async"] == found["ex2.approx"] == 1


def test_compiled_kernels_are_found_in_the_package(monkeypatch):
    metadata = SimpleNamespace(name="made_up_kernel", num_warps=4, num_stages=3, shared=1024)
    source = SimpleNamespace(constants={(0,): 64, (1,): True, (2,): None})
    kernel = SimpleNamespace(
        metadata=metadata, n_regs=168, n_spills=2, src=source, asm={"cubin": b"x", "ptx": PTX}
    )
    function = SimpleNamespace(
        arg_names=["BLOCK_N", "FULL", "x"],
        device_caches={0: ({"key": kernel}, {"key": "other"}, "target", "backend", "binder")},
    )
    module = SimpleNamespace(made_up_kernel=function, again=function, other=3)
    monkeypatch.setitem(profiling.sys.modules, "madeup.part", module)
    monkeypatch.setattr(profiling, "disassemble", lambda cubin: SASS)
    (row,) = profiling.compiled_kernels("madeup")
    assert (row["registers"], row["spills"], row["shared_bytes"]) == (168, 2, 1024)
    assert row["constants"] == "BLOCK_N=64, FULL=True"
    assert row["loop: tensor cores"] == 1
    assert row["all: local memory"] == 1
    assert row["ptx: wgmma.mma_async"] == 1
    known = set()
    assert len(profiling.compiled_kernels("madeup", known)) == 1
    assert profiling.compiled_kernels("madeup", known) == []
    monkeypatch.setattr(profiling, "disassemble", lambda cubin: None)
    (row,) = profiling.compiled_kernels("madeup")
    assert not any(name.startswith("loop") for name in row)


def event(name, microseconds, device="DeviceType.CUDA"):
    time_range = SimpleNamespace(elapsed_us=lambda: microseconds)
    return SimpleNamespace(name=name, device_type=device, time_range=time_range)


def test_events_are_summed_by_kernel():
    events = [event("state_kernel", 300.0), event("output_kernel", 100.0)] * 2
    events += [event("aten::empty", 999.0, "DeviceType.CPU")]
    events += [event("void at::fill<int, 4>(int*)", 200.0)] * 2
    rows = profiling.summed(events, repeats=2)
    assert [(r["kernel"], r["launches"]) for r in rows] == [
        ("state_kernel", 1.0),
        ("void at::fill", 1.0),
        ("output_kernel", 1.0),
    ]
    assert rows[0]["ms"] == pytest.approx(0.3)
    assert sum(r["share"] for r in rows) == pytest.approx(1.0)


def test_rates_against_ceilings():
    shape = Shape(8, 8, 65536)
    ms = ideal_bytes(shape, FORWARD) / 3e12 * 1e3
    book = contenders.get("book")
    found = profiling.rates(book, shape, FORWARD, ms, {"GBps": 3000.0, "TFLOPs": 600.0})
    assert found["share_of_copy"] == pytest.approx(1.0)
    assert found["nearer_to"] == "copy"
    assert found["flops_per_byte"] == pytest.approx(32)
    assert "share_of_copy" not in profiling.rates(book, shape, FORWARD, ms, {})


NCU = """==PROF== Connected to process 1
"ID","Kernel Name","dram__bytes_read.sum","sm__inst_executed.sum"
"","","Gbyte","inst"
"0","state_kernel","1.07","1,234,567"
"1","void output_kernel<int>(int, float)","0.5","n/a"
"""


def test_counters_are_parsed():
    first, second = profiling.parse_counters(NCU)
    assert first["kernel"] == "state_kernel"
    assert first["read_bytes"] == pytest.approx(1.07e9)
    assert first["instructions"] == 1234567
    assert second["instructions"] is None and second["kernel"] == "void output_kernel"
    assert first["occupancy_percent"] is None
    assert profiling.parse_counters("==ERROR== ERR_NVGPUCTRPERM\n") == []


def test_a_machine_without_ncu_is_said(monkeypatch):
    monkeypatch.setattr(profiling.shutil, "which", lambda name: None)
    (row,) = profiling.counters(Shape(8, 8, 65536), FORWARD)
    assert row["status"] == "not available"
    assert "ncu" in row["reason"]


def test_ncu_without_permission_is_said(monkeypatch, tmp_path):
    ncu = tmp_path / "ncu"
    ncu.write_text("#!/bin/sh\necho '==ERROR== ERR_NVGPUCTRPERM - no permission'\nexit 1\n")
    ncu.chmod(0o755)
    monkeypatch.setattr(profiling.shutil, "which", lambda name: str(ncu))
    (row,) = profiling.counters(Shape(8, 8, 65536), FORWARD)
    assert row["status"] == "failed"
    assert "ERR_NVGPUCTRPERM" in row["reason"]


def test_the_study_and_its_tables(monkeypatch, tmp_path, capsys):
    where = {"contender": "book", "work": FORWARD, **vars(Shape(8, 8, 65536))}
    rows = [
        {"kind": "ceiling", "what": "copy", "median_ms": 0.7, "GBps": 3000.0},
        {"kind": "case", **where, "median_ms": 0.8, "GBps": 2700.0, "share_of_copy": 0.9},
        {
            "kind": "kernel", **where, "kernel": "state_kernel", "launches": 1.0, "ms": 0.4,
            "share": 0.5,
        },
        {
            "kind": "compiled", "kernel": "state_kernel", "constants": "", "registers": 168,
            "loop: tensor cores": 4, "ptx: cp.async": 6,
        },
    ]  # fmt: skip

    def stream(module, function, options, timeout_s, tell):
        """The second case ends its process; a new one measures the ceilings again."""
        items, found = options["items"], [rows[0]]
        if items[0][0]["causal"]:
            return [rows[0] | {"GBps": 1.0}], "SIGSEGV"
        return [*found, *rows[1:], {"done": items[0][0]}], "SIGSEGV"

    monkeypatch.setattr(fresh, "stream", stream)
    monkeypatch.setattr(profiling.shutil, "which", lambda name: None)
    monkeypatch.setattr(hardware, "has_gpu", lambda: True)
    monkeypatch.setattr(hardware, "provenance", lambda *_: GPU)
    assert cli.main(["profile", "--quick", "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    for words in (
        "Measured ceilings",
        "state_kernel",
        "168",
        "tensor cores",
        "cp.async",
        "ncu, the",
    ):
        assert words in told
    assert len(studies.read(tmp_path / "made-up-gpu-1" / "profile.json").rows) == 6
    kinds = [r["kind"] for r in study.measure(True, lambda text: None)]
    assert kinds == ["ceiling", "case", "kernel", "case", "compiled", "counters"]
    assert len(reports.profile(studies.Study("profile", GPU, rows))) == 6

    monkeypatch.setattr(fresh, "stream", lambda *a, **k: ([], "SIGSEGV"))
    with pytest.raises(BenchError, match="SIGSEGV"):
        study.measure(True, print)


def test_another_contender_is_profiled_and_not_written(monkeypatch, tmp_path, capsys):
    asked = []

    def stream(module, function, options, timeout_s, tell):
        asked.append(options)
        (shape, work), name = options["items"][0], options["contender"]
        case = {"kind": "case", "contender": name, "work": work, **shape, "median_ms": 1.0}
        return [case, *({"done": "x"} for _ in options["items"])], None

    def counters(shape, work, contender):
        assert contender == asked[-1]["contender"]
        return []

    monkeypatch.setattr(fresh, "stream", stream)
    monkeypatch.setattr(profiling, "counters", counters)
    monkeypatch.setattr(hardware, "has_gpu", lambda: True)
    monkeypatch.setattr(hardware, "provenance", lambda *_: GPU)
    monkeypatch.setattr(studies, "write", lambda *x: pytest.fail("it was written"))
    assert cli.main(["profile", "--quick", "--contender", "sdpa-flash"]) == 0
    told = capsys.readouterr()
    assert "All of it is of SDPA flash, not of the book." in told.out
    assert "2 shapes of SDPA flash" in told.err
    assert asked[-1]["contender"] == "sdpa-flash" and len(asked[-1]["items"]) == 2
    monkeypatch.setitem(
        contenders._registry,
        "fla-chunk",
        replace(contenders.get("fla-chunk"), available=lambda: None),
    )
    assert cli.main(["profile", "--contender", "fla-chunk"]) == 0
    assert {shape["causal"] for shape, _ in asked[-1]["items"]} == {True}
    for arguments, words in (
        (["--contender", "nobody"], "There is no contender 'nobody'"),
        (["--contender", "loop"], "it is left out above 1,024 tokens"),
        (["--contender", "eager", "--recorded", "x"], "not with --recorded"),
        (["--contender", "eager", "--out", str(tmp_path)], "not with --recorded or --out"),
    ):
        assert cli.main(["profile", *arguments]) == 2
        assert words in capsys.readouterr().err
    absent = replace(contenders.get("fla-chunk"), available=lambda: "there is no package `fla`")
    monkeypatch.setitem(contenders._registry, "fla-chunk", absent)
    assert cli.main(["profile", "--contender", "fla-chunk"]) == 2
    assert "to install: pip install fla-core" in capsys.readouterr().err


def test_the_disassembler_of_triton_is_there():
    assert profiling.disassemble(b"no cubin") is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: torch.profiler, SASS")
def test_a_profile_on_a_gpu():
    shape = {"B": 1, "H": 2, "N": 1024}
    *rows, done = profiling.survey([(shape, FORWARD)])
    assert done == {"done": f"{Shape(**shape)}, {FORWARD}"}
    kinds = {r["kind"] for r in rows}
    assert {"ceiling", "case", "kernel", "compiled"} <= kinds, rows
    compiled = [r for r in rows if r["kind"] == "compiled"]
    assert all(r["registers"] for r in compiled)
    assert any(r.get("all: floating point") for r in compiled)
    assert all(r.get("ms", 0) > 0 for r in rows if r["kind"] == "kernel"), rows
