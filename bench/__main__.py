"""`python -m bench`."""

import sys
import warnings

# What the instruments import and `pip install -e .` alone does not bring.
NEEDED = ("numpy", "pandas", "plotly", "matplotlib", "pydantic", "ipywidgets")
warnings.filterwarnings("ignore", "Failed to initialize NumPy")  # PyTorch's, before ours

try:
    from .cli import main

    code = main()
except ModuleNotFoundError as problem:
    missing = (problem.name or "").split(".")[0]
    if missing not in (*NEEDED, "torch", "triton"):
        raise
    print(
        f"The bench needs {missing}, which is not installed: type "
        "pip install -e '.[bench]' in the folder of the book.",
        file=sys.stderr,
    )
    code = 2
sys.exit(code)
