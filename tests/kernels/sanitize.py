"""Every kernel on small odd shapes, for NVIDIA's compute-sanitizer; on a machine with a GPU:

    python -m tests.kernels.sanitize             # memcheck and racecheck
    python -m tests.kernels.sanitize memcheck    # one of its tools

Each tensor is an allocation of its own (PyTorch's cache of memory is off), so that a read past the
end of one is seen, and not hidden by its neighbour. The kernels are compiled first, and the dtypes
run side by side. Exits with 1 if anything was found.
"""

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("memcheck", "racecheck")
DTYPES = ("bfloat16", "float16", "float32")
SHAPES = [  # B, H, Hk, N, M, D, Dv
    (1, 2, 1, 70, 70, 40, 48),
    (1, 1, 1, 256, 256, 64, 64),  # full tiles, without a mask
]
FOUND = 99  # what the sanitizer exits with if it found something


def calls(name: str) -> None:
    """Runs every kernel in one dtype, forward and backward, and says so line by line."""
    import torch

    from kernels import LinearAttentionState, chained, configs, launch, linear_attention
    from kernels import linear_attention_step as step

    dtype = getattr(torch, name)

    def inputs(B, H, Hk, N, M, D, Dv):
        shapes = ((B, H, N, D), (B, Hk, M, D), (B, Hk, M, Dv))
        return [torch.randn(s, device="cuda").to(dtype).requires_grad_() for s in shapes]

    def state(B, Hk, D, Dv):
        kv, z = torch.randn(B, Hk, D, Dv, device="cuda"), torch.rand(B, Hk, D, device="cuda") + 1
        return LinearAttentionState(kv.requires_grad_(), z.requires_grad_())

    for shape, causal in itertools.product(SHAPES, (False, True)):
        B, _, Hk, N, _, D, Dv = shape
        before = state(B, Hk, D, Dv)
        options = {"causal": causal, "enable_gqa": True}
        for short, shared, normalize in ((0, 0, True), (0, 1024, True), (1024, 0, False)):
            configs.SHORT, configs.SHARED = short, shared  # long sequences, few heads, short ones
            launch.forget()
            order = "causal" if causal else "bidirectional"
            print(shape, name, order, short, shared, flush=True)
            o, after = linear_attention(
                *inputs(*shape), **options, normalize=normalize,
                initial_state=before, return_state=True,
            )  # fmt: skip
            (o.float().sum() + after.kv.sum() + after.z.sum()).backward()
            with torch.no_grad():
                linear_attention(*inputs(*shape), **options)
        if N % 64:
            ends = torch.tensor([0, 7, 7, N, N], dtype=torch.int32, device="cuda")
            for decay in (None, torch.full((Hk,), -0.1, device="cuda", requires_grad=True)):
                o = linear_attention(*inputs(*shape), **options, cu_seqlens=ends, decay=decay)
                o.sum().backward()
    with torch.no_grad():
        step(*(x[:, :, 0] for x in inputs(*shape)), before, enable_gqa=True)
    if name == "bfloat16" and torch.cuda.get_device_capability() == (9, 0):
        q, k, v = inputs(2, 2, 2, 640, 640, 64, 64)
        chained.forward(q, k, v, None, "elu", True, 1.0, 1e-6, True)
        configs.chained_is_faster = lambda *x: True
        for g in (-0.1, -5.0):  # mild, and left to the other kernel
            decay = torch.full((2, 2, 640), g, device="cuda")
            linear_attention(q, k, v, decay=decay, causal=True).sum().backward()
        print("chained", flush=True)
    torch.cuda.synchronize()
    print(f"every kernel has run in {name}", flush=True)


def check(tool: str | None) -> int:
    """Runs `calls` in every dtype under a tool of compute-sanitizer, or without; 0 if all is well.

    Prints what the tool prints.
    """
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    under = [program, "--tool", tool, "--target-processes", "application-only"] if tool else []
    under += ["--error-exitcode", str(FOUND)] if tool else []
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    command = [*under, sys.executable, "-m", "tests.kernels.sanitize", "-"]
    runs = [subprocess.Popen([*command, name], cwd=ROOT, env=environment) for name in DTYPES]
    return max(abs(run.wait()) for run in runs)


if __name__ == "__main__":
    if sys.argv[1:2] == ["-"]:
        calls(sys.argv[2])
    elif shutil.which("nvidia-smi") is None:
        sys.exit("compute-sanitizer needs an NVIDIA GPU, and this machine has no driver for one.")
    else:
        for tool in (None, *(sys.argv[1:] or TOOLS)):
            print(f"--- {tool or 'compiling'}", flush=True)
            if check(tool):
                sys.exit(f"{tool or 'the kernels'}: something was found")
        print("nothing was found")
