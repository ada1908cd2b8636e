"""Set before anything imports triton: without a GPU the kernels run in Triton's interpreter."""

import os
import sys
from pathlib import Path

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# the checkout first: another package on PyPI is also called `kernels`
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers already share the cores
    torch.set_num_threads(1)


def pytest_configure(config):
    # numpy's, on the inf and NaN that some tests feed to the interpreter on purpose
    for module in ("triton.runtime.interpreter", "numpy._core.fromnumeric"):
        config.addinivalue_line("filterwarnings", f"ignore::RuntimeWarning:{module}")
