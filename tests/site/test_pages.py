"""Every page, in a wide and a narrow window, in light and in dark."""

from __future__ import annotations

import checks
import pytest
from pages import PAGES, open_page


def run(page, address: str, width: str) -> dict[str, list[str]]:
    """{name of a check: the faults it found} of a page that is opened here."""
    found: dict[str, list[str]] = {}

    def check(name, *arguments, theme=""):
        faults = getattr(checks, name)(page, *arguments)
        if faults:
            found[f"{name} {theme}".strip()] = faults

    with checks.watched(page, checks.origin(address)) as faults:
        page.goto(address)
        checks.settle(page)
        for name in ("figures", "math", "plotly_where_needed", "sideways"):
            check(name)
        # Colours do not depend on the width, and what stands where not on the theme.
        check("axe", checks.STRUCTURE, theme="folded")
        check("keyboard", theme="folded")
        checks.unfold(page)
        wide = ["clipped_code", "clipped_tables"] if width == "wide" else []
        for name in ("figures", "math", "sideways", *wide):
            check(name)
        # What was folded has headings, lists, tables and code that scrolls of its own.
        check("axe", checks.ALL if width == "wide" else checks.STRUCTURE, theme="unfolded, light")
        check("keyboard", theme="unfolded")
        for theme in ("light", "dark"):
            checks.set_theme(page, dark=theme == "dark")
            check("light_boxes", theme=theme)
        if width == "wide":
            check("axe", checks.COLOURS, theme="dark")
        check("controls")
    if faults:
        found["requests and console"] = faults
    return found


@pytest.mark.parametrize("width", checks.WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_page(browser, address, name, width):
    page = open_page(browser, width)
    found = run(page, f"{address}/{name}", width)
    page.context.close()
    assert not found, "\n".join(
        f"{check}: {fault}" for check, faults in found.items() for fault in faults
    )
