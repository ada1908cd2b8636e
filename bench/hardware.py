"""What this machine is: the GPU, the software, the commit. Works without a GPU and without git."""

import os
import platform
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import ClassVar

import torch

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Provenance:
    """Where a measurement comes from. What could not be found out is None.

    Sizes are in bytes, clocks in MHz, power in watts; `date` is UTC, ISO 8601.
    """

    gpu: str  # "NVIDIA H100 80GB HBM3", or "none"
    slug: str  # "nvidia-h100-80gb-hbm3": the name of the results file
    date: str
    command: str
    python: str
    torch: str
    triton: str | None = None
    cuda: str | None = None
    driver: str | None = None
    commit: str | None = None
    dirty: bool | None = None  # uncommitted changes outside results/
    capability: str | None = None  # "9.0"
    sm_count: int | None = None
    l2_bytes: int | None = None
    memory_bytes: int | None = None
    sm_clock_mhz: int | None = None  # in a run under load (`busy`); without a load at rest
    sm_clock_max_mhz: int | None = None
    memory_clock_mhz: int | None = None
    power_limit_w: float | None = None
    null_kernel_ms: float | None = None  # of a run: what its clock shows for no work at all

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    def line(self, live: bool) -> str:
        """One line for under a figure or table: `recorded on NVIDIA …, 2026-01-31, torch …`."""
        if self.gpu == "none":
            return "not measured on a GPU yet"
        parts = [f"{'live' if live else 'recorded'} on {self.gpu}", self.date[:10]]
        parts.append(f"torch {self.torch}")
        if self.triton:
            parts.append(f"triton {self.triton}")
        if self.commit:
            parts.append(f"commit {self.commit[:7]}{' + changes' if self.dirty else ''}")
        return ", ".join(parts)


def slug(name: str) -> str:
    """`NVIDIA H100 80GB HBM3` → `nvidia-h100-80gb-hbm3`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def has_gpu() -> bool:
    """Whether PyTorch sees an NVIDIA GPU."""
    return torch.cuda.is_available() and torch.version.cuda is not None


def default_dtype() -> torch.dtype:
    """bfloat16, or float16 on a GPU older than sm_80, which has no bfloat16 tensor cores."""
    if has_gpu() and torch.cuda.get_device_capability() < (8, 0):
        return torch.float16
    return torch.bfloat16


@contextmanager
def busy(work: Callable[[], None] | None = None):
    """Keep the GPU copying memory, as the kernels here do, for as long as the block runs.

    `work` is another thing to do over and over; it has to return soon.
    """
    if work is None:
        source = torch.empty(2**28, dtype=torch.uint8, device="cuda")
        target = torch.empty_like(source)

        def work():
            for _ in range(10):
                target.copy_(source)
            torch.cuda.synchronize()

    done = threading.Event()

    def repeat():
        while not done.is_set():
            work()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def provenance(command: str = "", load: Callable = nullcontext) -> Provenance:
    """Describe this machine now; `command` is how the measurement was asked for.

    The clocks are read within the context `load`: a GPU at rest reports a fifth of what it runs at.
    """
    commit, dirty = _commit()
    facts = {
        "gpu": "none",
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": command,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _triton_version(),
        "cuda": torch.version.cuda,
        "commit": commit,
        "dirty": dirty,
    }
    if has_gpu():
        gpu = torch.cuda.get_device_properties(torch.cuda.current_device())
        with load():
            clocks = _nvidia_smi(getattr(gpu, "uuid", None))
        facts |= {
            "gpu": gpu.name,
            "capability": f"{gpu.major}.{gpu.minor}",
            "sm_count": gpu.multi_processor_count,
            "l2_bytes": getattr(gpu, "L2_cache_size", None),
            "memory_bytes": gpu.total_memory,
            **clocks,
        }
    return Provenance(slug=slug(facts["gpu"]), **facts)


def _triton_version() -> str | None:
    from importlib import metadata

    try:
        return metadata.version("triton")
    except metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str | None:
    """What a command prints, or None when it is absent, fails or takes longer than 10 s."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _commit() -> tuple[str | None, bool | None]:
    """The commit, and whether files differ from it.

    A copy of the files may lie where git does not know them. Whoever sets the variable BOOK_COMMIT
    says that these are the files of that commit, unchanged.
    """
    commit = None
    if os.environ.get("BOOK_COMMIT"):
        return os.environ["BOOK_COMMIT"], False
    if (ROOT / ".git").exists():  # not the repository of somebody's site-packages
        commit = _output("git", "-C", str(ROOT), "rev-parse", "HEAD")
    if commit is None:
        return None, None
    changes = _output("git", "-C", str(ROOT), "status", "--porcelain", "--", ".", ":!results")
    return commit, None if changes is None else bool(changes)


def _nvidia_smi(uuid) -> dict:
    """Driver, clocks and power limit by nvidia-smi; {} where it is not there."""
    fields = {
        "driver": ("driver_version", str),
        "sm_clock_mhz": ("clocks.sm", int),
        "sm_clock_max_mhz": ("clocks.max.sm", int),
        "memory_clock_mhz": ("clocks.mem", int),
        "power_limit_w": ("power.limit", float),
    }
    query = "--query-gpu=" + ",".join(name for name, _ in fields.values())
    which = ["-i", f"GPU-{uuid}"] if uuid else []
    line = _output("nvidia-smi", *which, query, "--format=csv,noheader,nounits")
    facts = {}
    values = line.splitlines()[0].split(",") if line else []
    for (key, (_, kind)), text in zip(fields.items(), values, strict=False):
        try:
            facts[key] = kind(text.strip())
        except ValueError:  # "[N/A]"
            facts[key] = None
    return facts


def command_line() -> str:
    """`python -m bench …` as typed, less what changes no number: where and how the result goes."""
    words, skip = ["python", "-m", "bench"], False
    for word in sys.argv[1:]:
        if skip or word.startswith("--out="):
            skip = False
        elif word == "--out":
            skip = True
        elif word in ("--resume", "--json"):
            continue
        else:
            words.append(word)
    return " ".join(words)
