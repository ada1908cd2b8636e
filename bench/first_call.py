"""The first call of a contender in a fresh process whose Triton cache is empty."""

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

from . import fresh

# What a reader may call first: head sizes and dtypes that take other tiles, both orders.
SHAPES = (
    {"B": 8, "H": 8, "N": 65536, "D": 64, "dtype": "bfloat16", "causal": False},
    {"B": 8, "H": 8, "N": 65536, "D": 64, "dtype": "bfloat16", "causal": True},
    {"B": 1, "H": 8, "N": 1000, "D": 128, "dtype": "bfloat16", "causal": True},
    {"B": 1, "H": 8, "N": 1000, "D": 256, "dtype": "bfloat16", "causal": True},
    {"B": 1, "H": 8, "N": 1000, "D": 128, "dtype": "float16", "causal": True},
    {"B": 1, "H": 8, "N": 200, "D": 256, "dtype": "float32", "causal": True},
    {"B": 1, "H": 8, "N": 1000, "D": 256, "dtype": "float32", "causal": True},
)


def measure(contender: str, device: str = "cuda", **shape) -> dict:
    """In the fresh process: {"first_call_s", "second_call_s"}; imports are done before.

    The first time has all that a first call does: Triton's own start, compilation, launch.
    """
    from . import contenders, runner
    from .roofline import FORWARD, Shape

    shape = Shape(**shape, Dv=shape["D"])
    inputs = runner.Inputs(shape, gradients=False, device=device)
    one = contenders.get(contender)
    missing = one.available()
    if missing is not None:
        return {"failed": missing}
    call, _ = runner.prepare(one, inputs, FORWARD)
    times = []
    with one.context():
        for _ in range(2):
            runner.synchronize(device)
            begin = time.perf_counter()
            call()
            runner.synchronize(device)
            times.append(time.perf_counter() - begin)
    return {"first_call_s": times[0], "second_call_s": times[1]}


def in_fresh_processes(contender: str = "book", shapes=SHAPES, at_a_time: int = 3) -> list[dict]:
    """`measure` for each shape, each in a process of its own with an empty Triton cache."""

    def job(shape):
        with tempfile.TemporaryDirectory(prefix="triton-") as cache:
            arguments = {"contender": contender, **shape}
            return fresh.call(__name__, "measure", arguments, TRITON_CACHE_DIR=cache)

    with ThreadPoolExecutor(at_a_time) as pool:
        return list(pool.map(job, shapes))
