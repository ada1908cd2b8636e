"""The book's own Sphinx extension: what `_config.yml` cannot say.

`execution` sets the environment that chapters run in and where their outputs are cached,
`assets` serves scripts from installed packages, only where a page needs them, and
`repository` finds where the book's source lives.
"""

from __future__ import annotations

from . import assets, execution, repository


def setup(app) -> dict:
    for part in (execution, assets, repository):
        part.connect(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
