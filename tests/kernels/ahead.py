"""Compiling ahead of time: for a GPU that need not be there.

A test's program launches kernels on tensors of the CPU. Each launch is replaced by compiling what
it would have launched, for the GPU that is asked for. That takes a process of its own, without the
interpreter:

    shared = ahead.run(PROGRAM, 90, "bfloat16")       # in the test

    compiled = ahead.instead_of_launching(90)         # first in PROGRAM, which may `import ahead`
    ...                                               # launches
    print(json.dumps({name: kernel.metadata.shared for name, kernel in compiled.items()}))
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ("num_warps", "num_stages", "maxnreg")


def run(program: str, *arguments):
    """What a program printed last, read as JSON. It finds the arguments in `sys.argv`, as JSON."""
    environment = {n: x for n, x in os.environ.items() if n != "TRITON_INTERPRET"}
    environment["TRITON_DISABLE_LINE_INFO"] = "1"  # which nobody reads, and takes time
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, "-c", program, *map(json.dumps, arguments)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3000,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def modules(names) -> set[str]:
    """The modules, within kernels.steps, of kernels that are named "module.kernel"."""
    return {name.rsplit(".", 1)[0].removeprefix("kernels.steps.") for name in names}


def instead_of_launching(arch: int) -> dict:
    """From now on launches compile for sm_<arch>: {"module.kernel": the largest of its forms}.

    A form is larger if it takes more shared memory.
    """
    compiled = {}

    def keep(name, values, options, kernel):
        known = compiled.get(name)
        if known is None or kernel.metadata.shared >= known.metadata.shared:
            compiled[name] = kernel

    compile_launches(arch, keep)
    return compiled


def compile_launches(arch: int, keep, once: bool = False) -> None:
    """From now on launches compile for sm_<arch>, each form of a kernel once.

    keep("module.kernel", arguments, options, compiled) is called at each launch, or `once` a form.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    forms = {}

    def compile_instead(kernel, values, options):
        signature, constants, aligned = form = form_of(kernel, values)
        key = (kernel.fn, *map(str, (*form, options)))
        if key not in forms:
            source = ASTSource(kernel, signature, constants, aligned)
            target = GPUTarget("cuda", arch, 32)
            forms[key] = triton.compile(source, target=target, options=options)
        elif once:
            return
        keep(f"{kernel.fn.__module__}.{kernel.fn.__name__}", values, options, forms[key])

    see_launches(compile_instead)


def see_launches(see) -> None:
    """From now on launches call see(kernel, arguments, options) instead."""
    import triton

    def run(self, *args, grid, warmup, **kwargs):
        options = {n: kwargs.pop(n) for n in OPTIONS if n in kwargs}
        values = dict(zip(self.arg_names, args, strict=False)) | kwargs
        assert set(values) == set(self.arg_names), set(values) ^ set(self.arg_names)
        see(self, values, options)

    triton.runtime.JITFunction.run = run


def integer(value: int) -> str:
    """The type that Triton gives a number."""
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def form_of(kernel, values: dict) -> tuple[dict, dict, dict]:
    """(types, constants, what is aligned) that Triton compiles a kernel for at a launch.

    These are the types of all arguments, by name, and, by place, the values that are known to the
    compiler and the arguments that are multiples of 16.
    """
    import torch

    types = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
    types |= {torch.int8: "*i8", torch.int32: "*i32", torch.int64: "*i64"}
    signature, constants, aligned = {}, {}, {}
    for i, parameter in enumerate(kernel.params):
        name, value = parameter.name, values[parameter.name]
        known = type(value) is int and value == 1 and not parameter.do_not_specialize
        multiple = isinstance(value, torch.Tensor) or (type(value) is int and value % 16 == 0)
        if parameter.is_constexpr or value is None or known:
            signature[name], constants[(i,)] = "constexpr", value
            continue
        if isinstance(value, torch.Tensor):
            signature[name] = types[value.dtype]
        elif isinstance(value, tuple):
            signature[name] = tuple(map(integer, value))
        elif isinstance(value, int):
            signature[name] = integer(value)
        else:
            signature[name] = "fp32"
        skipped = parameter.do_not_specialize or parameter.do_not_specialize_on_alignment
        if multiple and not skipped:
            aligned[(i,)] = [["tt.divisibility", 16]]
    return signature, constants, aligned
