"""Every page is light and painted early, timed while no other test runs.

`make test-site` runs this file after the others: they keep every core busy, and beside them a quick
page was painted too late, four times in a row.
"""

from __future__ import annotations

import checks
import pytest
from pages import PAGES, open_page

TRIES = 4


@pytest.mark.parametrize("name", PAGES)
def test_page_is_light(site, browser, address, name):
    assert not checks.size(site / name)
    paints = []
    for _ in range(TRIES):  # what else the machine does may delay a page, and never hastens it
        page = open_page(browser, "wide")
        page.goto(f"{address}/{name}", wait_until="commit")
        paints.append(checks.first_paint(page))
        page.context.close()
        if paints[-1] < checks.FIRST_PAINT_MS:
            return
    times = ", ".join(f"{paint:.0f}" for paint in paints)
    pytest.fail(f"first contentful paint after {times} ms")
