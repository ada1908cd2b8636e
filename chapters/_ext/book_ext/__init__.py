"""The book's own Sphinx extension: what `_config.yml` cannot say.

`execution` sets the environment that chapters run in and where their outputs are cached,
`ahead` executes several at once,
`assets` serves scripts from installed packages, only where a page needs them,
`repository` finds where the book's source lives,
`claims` lists the claims of all pages on one,
`status` says where and when each page was executed,
`reading` says how long each page takes,
`api` serves the reference pages, and
`notebooks` writes each page with code as a notebook that Colab can run.
"""

from __future__ import annotations


def setup(app) -> dict:
    # Here, since `python -m book_ext.executed` and its like need none of the others.
    from . import ahead, api, assets, claims, execution, notebooks, reading, repository, status

    for part in (execution, ahead, assets, repository, claims, status, reading, api, notebooks):
        part.connect(app)
    return {"env_version": 1, "parallel_read_safe": True, "parallel_write_safe": True}
