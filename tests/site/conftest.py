"""A Chromium and a server of the built book, shared by all tests of this folder.

`make test-site` builds the book and runs these; BOOK_SITE names a built book elsewhere.
"""

from __future__ import annotations

import functools
import http.server
import os
import sys
import threading
from pathlib import Path

import pytest
from book_ext.browser import ADVICE, find

sys.path.insert(0, str(Path(__file__).parent))

ROOT = Path(__file__).resolve().parents[2]
SITE = Path(os.environ.get("BOOK_SITE", ROOT / "_build/html"))


class Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    path = find()
    if path is None:
        pytest.exit(ADVICE, returncode=1)
    # No other host is reached, whatever a page asks for: the test then sees the failed request.
    flags = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--disable-quic"]
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=path, args=flags, chromium_sandbox=False
        )
        yield opened
        opened.close()


def serve(folder: Path):
    """(server, its address) of a folder, on a free port of this machine."""
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"


@pytest.fixture(scope="session")
def site() -> Path:
    if not (SITE / "index.html").exists():
        pytest.exit(f"There is no book in {SITE}: run `make book` first.", returncode=1)
    return SITE


@pytest.fixture(scope="session")
def address(site):
    server, address = serve(site)
    yield address
    server.shutdown()
