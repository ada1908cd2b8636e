"""The pages of the book, in the order of its table of contents, and how a test opens one."""

from __future__ import annotations

from pathlib import Path

import yaml
from checks import WIDTHS

ROOT = Path(__file__).resolve().parents[2]


def files(entry: dict | list) -> list[str]:
    """All files that a table of contents names."""
    if isinstance(entry, list):
        return [file for part in entry for file in files(part)]
    names = [entry[key] for key in ("root", "file") if key in entry]
    parts = [entry[key] for key in ("parts", "chapters", "sections") if key in entry]
    return names + files(parts)


PAGES = [f"{name}.html" for name in files(yaml.safe_load((ROOT / "_toc.yml").read_text()))]


def open_page(browser, width: str):
    """A page of a context of its own: light, wide or narrow."""
    wide, high = WIDTHS[width]
    context = browser.new_context(
        viewport={"width": wide, "height": high}, color_scheme="light", reduced_motion="reduce"
    )
    context.set_default_timeout(60_000)
    return context.new_page()
