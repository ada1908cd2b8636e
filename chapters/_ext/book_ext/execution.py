"""The environment that chapters are executed in, and the cache of their outputs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import zmq
from jupyter_client.manager import KernelManager
from sphinx.errors import ExtensionError
from sphinx.util import logging

from . import executed

log = logging.getLogger(__name__)

# What a chapter's output depends on beside its own cells.
SOURCES = ("kernels/**/*", "bench/**/*", "results/**/*", "chapters/**/*.py")
KEPT_CACHES = 3
# Of PyTorch, MKL and OpenBLAS on the CPU, in a page and in every process that it starts. The cells
# compute on small tensors in loops: on a host with 64 cores as many threads mostly wait for each
# other, and a cell that takes a second with one can take a minute. What is large runs on the GPU.
CPU_THREADS = "1"

# Asked in a process of its own, so that the build itself holds no memory of the GPU.
PROBE = """
import importlib.util, json, torch, triton
gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
kernels = importlib.util.find_spec("kernels")
print(json.dumps({"torch": torch.__version__, "triton": triton.__version__, "gpu": gpu,
                  "kernels": kernels and kernels.origin}))
"""


def connect(app) -> None:
    # Before MyST-NB reads the settings, when the builder starts.
    app.connect("config-inited", prepare)


def prepare(app, config) -> None:
    root = Path(app.srcdir)
    set_environment(root)
    encrypt_kernels()
    machine = probe(root)
    check_kernels(root, machine["kernels"])
    if machine["gpu"] is None:
        os.environ["TRITON_INTERPRET"] = "1"
    log.info("chapters run on %s", machine["gpu"] or "the CPU, under Triton's interpreter")

    caches = Path(app.outdir).parent / ".jupyter_cache"
    cache = caches / fingerprint(root, machine)
    prune(caches, keep=cache)
    digest = sources(root)
    executed.note(cache, digest, machine)
    there, said = executed.brought(root, digest, machine["gpu"])
    if said:
        log.info("%s", said)
    config.nb_execution_cache_path = str(there or cache)
    # The chapters of one build measure the GPU once: see bench/book.py.
    os.environ["BOOK_LIVE_RECORD"] = str(cache / "live.json")
    # While one measures, the others wait: see bench/turns.py.
    os.environ["BOOK_TURNS"] = str(cache.parent / "turns")


def set_environment(root: Path) -> None:
    """Let the executed chapters import this checkout, with the Python that builds the book, and
    compute on few threads."""
    others = os.environ.get("PYTHONPATH")
    if str(root) not in (others or "").split(os.pathsep):
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), others]))
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    os.environ.setdefault("OMP_NUM_THREADS", CPU_THREADS)


def encrypt_kernels() -> None:
    """Encrypt what is said to and by the chapters' kernels: one that speaks in the clear over TCP
    warns of it, once for each page."""
    policy = getattr(KernelManager, "transport_encryption", None)  # since jupyter-client 8.9
    if policy is not None and zmq.has("curve"):
        policy.default_value = "auto"


def probe(root: Path) -> dict:
    """What the chapters will find: versions of torch and triton, the GPU, and which `kernels`."""
    # From chapters/, as their kernels run there.
    run = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=root / "chapters", capture_output=True, text=True
    )
    if run.returncode:
        raise ExtensionError(f"The chapters need torch and triton: {run.stderr.strip()}")
    return json.loads(run.stdout.splitlines()[-1])


def check_kernels(root: Path, origin: str | None) -> None:
    """Stop at once where `import kernels` finds the package of that name on PyPI, not ours."""
    if origin is None or not Path(origin).resolve().is_relative_to(root.resolve()):
        raise ExtensionError(
            f"`import kernels` finds {origin or 'nothing'}, not this checkout's kernels/: "
            f"put {root} first in PYTHONPATH, or uninstall the other package."
        )


def fingerprint(root: Path, machine: dict) -> str:
    """A name for the cache that changes with anything the outputs depend on."""
    digest = hashlib.sha256(json.dumps([machine[k] for k in ("torch", "triton", "gpu")]).encode())
    digest.update(sources(root).encode())
    return digest.hexdigest()[:16]


def sources(root: Path) -> str:
    """A name for the state of the files that the outputs depend on."""
    digest = hashlib.sha256()
    for source in SOURCES:
        for path in sorted(root.glob(source)):
            if path.is_file() and not {"__pycache__", "_ext"} & set(path.parts):
                digest.update(str(path.relative_to(root)).encode() + b"\0")
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def prune(caches: Path, keep: Path) -> None:
    """Remove all caches but the newest few; `keep` is in use and becomes the newest."""
    keep.mkdir(parents=True, exist_ok=True)
    os.utime(keep)
    newest = sorted((c for c in caches.iterdir() if c.is_dir()), key=lambda c: -c.stat().st_mtime)
    for old in newest[KEPT_CACHES:]:
        shutil.rmtree(old, ignore_errors=True)
