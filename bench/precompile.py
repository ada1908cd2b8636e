"""Compile what other packages try out at their first call, on all cores of the host, beforehand.

Some packages choose their tile shapes by timing dozens of candidates at the first call. Most of
that is compilation, one candidate after another. Here several processes make the same first call,
and each compiles its share of the candidates into Triton's cache, without timing or launching any.
The package still does its own timing later, alone on the GPU, and chooses as it always does.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

from . import contenders, fresh
from .roofline import Shape

MOST = 14  # processes; each holds half a gibibyte of the GPU beside its tensors
TIMEOUT_S = 90.0


def wanted(plans) -> list[tuple[str, dict, str]]:
    """(contender, shape, work) of calls that reach all candidates of the contenders that tune."""
    calls = {}
    for plan in plans:
        for name in plan.contenders:
            c = contenders.get(name)
            if c.tunes is None or c.available() is not None:
                continue
            for shape in plan.shapes():
                if c.refusal(shape) is None:
                    shorter = replace(shape, N=min(shape.N, c.tunes))
                    calls.update({(name, shorter, work): None for work in plan.works})
    return [(name, asdict(shape), work) for name, shape, work in calls]


def compile_ahead(plans, say=lambda text: None, processes: int | None = None) -> int:
    """Compile for `plans`; returns how many processes took part. What fails here fails later too,
    where it is recorded."""
    calls = wanted(plans)
    count = min(MOST, (os.cpu_count() or 1) - 2) if processes is None else processes
    if not calls or count < 2:
        return 0
    names = ", ".join(dict.fromkeys(name for name, _, _ in calls))
    say(f"compiling the candidates of {names} in {count} processes")
    with ThreadPoolExecutor(count) as pool:
        shares = [{"calls": calls, "share": i, "shares": count} for i in range(count)]
        found = list(
            pool.map(
                lambda x: fresh.call("bench.precompile", "compile_share", x, TIMEOUT_S), shares
            )
        )
    done = sum(x.get("compiled", 0) for x in found)
    say(f"compiled {done} candidates")
    return count


def compile_share(calls, share: int, shares: int) -> dict:
    """Make the calls with an autotuner that compiles every `shares`-th candidate, and no more."""
    from triton.runtime.autotuner import Autotuner

    from . import memory, runner

    compiled = 0

    def run(self, *args, **kwargs):
        nonlocal compiled
        self.nargs = dict(zip(self.arg_names, args, strict=False))
        for i, config in enumerate(self.prune_configs(kwargs)):
            if i % shares != share:
                continue
            try:
                self.fn.run(*args, **{**kwargs, **config.all_kwargs(), "warmup": True})
                compiled += 1
            except Exception:  # a candidate that does not compile is none when it is timed either
                pass

    Autotuner.run = run
    for name, shape, work in calls:
        shape = Shape(**shape)
        try:
            one = contenders.get(name)
            call = runner.call_of(one, *memory.inputs(one, shape, work, "cuda"), shape.causal)
            with one.context():
                call()
        except Exception:  # of tensors that nothing was written to: the shape of the call is all
            continue
        finally:
            runner.free("cuda")
    return {"compiled": compiled}
