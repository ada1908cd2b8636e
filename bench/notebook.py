"""The first cell of a notebook: what is missing is installed, and the GPU is looked at.

    from bench import notebook
    notebook.start("chapters")

Only the standard library is needed to import this.
"""

import os
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What pyproject.toml asks for, and all that the cells of a page import.
NEEDS = ("torch>=2.9", "triton>=3.5", "numpy>=1.26", "pandas>=2.0", "plotly>=5.24")
NEEDS += ("matplotlib>=3.7", "pydantic>=2.5", "ipywidgets>=7.7")


def start(folder: str) -> None:
    """Make this process ready for the cells of a page in `folder`, and say what to expect of it.

    What is missing is installed; what is there stays as it is, PyTorch and Triton above all.
    Where there is no GPU, TRITON_INTERPRET is set. The CPU computes with one thread, as when a
    page is built: with one for each of many cores, cells with small tensors take long.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when PyTorch is imported, below
    install()
    place = ROOT / folder
    os.chdir(place)
    for path in (str(ROOT), str(place)):  # the kernel of a built page has both
        if path in sys.path:
            sys.path.remove(path)
        sys.path.insert(0, path)
    for line in (notice(), *older()):
        print(line)


def older() -> list[str]:
    """A sentence for each of PyTorch and Triton that is older than what the book asks for."""
    said = []
    for need in NEEDS[:2]:
        name, wanted = need.split(">=")
        have = version(name) or "0"
        if [*map(int, re.findall(r"\d+", have)[:2])] < [*map(int, wanted.split("."))]:
            said.append(
                f"{name} is {have} here, and the book asks for {wanted} or newer: it is left as it "
                "is, and kernels may fail or give other results."
            )
    return said


def install() -> None:
    """Install what is missing; pip fails rather than change a package of NEEDS that is there."""
    there = {name: version(name) for name in map(name_of, NEEDS)}
    missing = [need for need in NEEDS if there[name_of(need)] is None]
    if not missing:
        return
    print(f"Installing {', '.join(missing)}.")
    with tempfile.TemporaryDirectory() as scratch:
        kept = Path(scratch, "kept.txt")
        kept.write_text("".join(f"{name}=={v}\n" for name, v in there.items() if v))
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        run = subprocess.run(
            [*pip, "--constraint", str(kept), *missing], capture_output=True, text=True
        )
    if run.returncode:
        raise RuntimeError(f"pip could not install {', '.join(missing)}: {run.stderr.strip()}")


def name_of(need: str) -> str:
    """The name in a requirement such as "torch>=2.9"."""
    return need.split(">=")[0]


def version(name: str) -> str | None:
    """The installed version of a package; None where there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def notice() -> str:
    """Which GPU this is and what that allows. Without one, TRITON_INTERPRET is set."""
    import torch

    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
        return (
            "There is no GPU here. The kernels run in Triton's interpreter, on small inputs, and "
            "the times shown are recorded ones.\nOn Colab, Runtime > Change runtime type offers a "
            "GPU; then run this cell again."
        )
    gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
    return allowed(gpu.name, (gpu.major, gpu.minor), gpu.total_memory)


def allowed(name: str, capability: tuple[int, int], memory: int) -> str:
    """What a GPU of this compute capability and memory [bytes] allows."""
    which = f"{name}, sm_{capability[0]}{capability[1]}, {memory / 2**30:.0f} GiB."
    if capability >= (8, 0):
        return (
            f"{which}\nEverything in this book runs here, in bfloat16, float16 and float32; "
            "sequences are as long as the memory allows."
        )
    return (
        f"{which}\nThe book runs here in float16 and float32. What this GPU cannot show: bfloat16, "
        "and kernels on tensor cores, for which Triton generates code from sm_80 on. So "
        "linear attention runs as the chunked PyTorch reference, products of tiles in a kernel are "
        "slow, and what a page says of a newer GPU stands beside as recorded."
    )
