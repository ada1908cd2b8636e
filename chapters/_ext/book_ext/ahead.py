"""Pages are executed side by side, before Sphinx reads them one after the other.

What MyST-NB would execute when it reads a page is executed here, in the same way, and put into
the cache where MyST-NB then finds it. A page that fails is left to MyST-NB, which executes it
again and reports. What measures does so alone: see bench/turns.py.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from jupyter_cache.executors.utils import single_nb_execution
from myst_nb.core.read import create_nb_reader
from sphinx.util import logging

log = logging.getLogger(__name__)

AT_ONCE = 3  # pages; each has a process, and memory of the GPU where there is one


def connect(app) -> None:
    app.connect("env-before-read-docs", execute)


def execute(app, env, names: list[str]) -> None:
    settings = env.mystnb_config
    if settings.execution_mode != "cache":
        return
    cache = get_cache(settings.execution_cache_path)
    waiting = {name: nb for name in names if (nb := unexecuted(env, name, cache)) is not None}

    def run(name):
        return single_nb_execution(
            waiting[name],
            cwd=str(Path(env.doc2path(name)).parent),
            timeout=settings.execution_timeout,
            allow_errors=settings.execution_allow_errors,
        )

    lanes = min(AT_ONCE, os.cpu_count() or 1, len(waiting))
    if lanes < 2:
        return
    log.info("executing %d pages, %d at a time", len(waiting), lanes)
    with ThreadPoolExecutor(lanes) as pool:
        running = {pool.submit(run, name): name for name in waiting}
        for done in as_completed(running):
            name, result = running[done], done.result()
            if result.err is not None:
                log.info("%s: failed after %.0f s, so it is executed again", name, result.time)
                continue
            log.info("%s: executed in %.0f s", name, result.time)
            found = {"execution_seconds": result.time}
            bundle = CacheBundleIn(result.nb, str(env.doc2path(name)), data=found)
            cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


def unexecuted(env, name: str, cache):
    """The notebook of a page whose outputs are not in the cache; else None."""
    path = env.doc2path(name)
    text = Path(path).read_text(encoding="utf-8")
    reader = create_nb_reader(path, env.myst_config, env.mystnb_config, text)
    if reader is None:
        return None
    notebook = reader.read(text)
    try:
        cache.match_cache_notebook(notebook)
    except KeyError:
        return notebook
    return None
