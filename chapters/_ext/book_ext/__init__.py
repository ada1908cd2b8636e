"""The book's own Sphinx extension: what `_config.yml` cannot say.

`execution` sets the environment that chapters run in and where their outputs are cached,
`assets` serves scripts from installed packages, only where a page needs them,
`repository` finds where the book's source lives, and
`claims` lists the claims of all pages on one.
"""

from __future__ import annotations

from . import assets, claims, execution, repository


def setup(app) -> dict:
    for part in (execution, assets, repository, claims):
        part.connect(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
