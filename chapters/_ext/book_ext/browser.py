"""The Chromium or Chrome of this machine, for the tests of the website and for the PDF.

`python -m book_ext.browser` prints its path, or says in one sentence what to do.
No browser is ever downloaded.
"""

from __future__ import annotations

import os
import shutil
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
ADVICE = (
    "There is no Chromium or Chrome here: install one (on Debian and Ubuntu: "
    "apt-get install chromium fonts-liberation), or set BOOK_BROWSER to its path."
)


def find() -> str | None:
    """Its path: what BOOK_BROWSER names, else the first that is installed, else None."""
    named = os.environ.get("BOOK_BROWSER")
    names = (named,) if named else (*NAMES, MAC)
    return next(filter(None, map(shutil.which, names)), None)


if __name__ == "__main__":
    print(find() or sys.exit(ADVICE))
