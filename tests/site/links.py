"""Links between the pages of a folder, read from the files."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The ids of a page, and what it links to or loads."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids, self.targets = set(), []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids.update(found[key] for key in ("id", "name") if found.get(key))
        self.targets += [found[key] for key in ("href", "src") if found.get(key)]


def broken(site: Path) -> list[str]:
    """Links and sources inside a site that lead to no file, or to no place in it."""
    files = [path for path in site.rglob("*.html") if "_static" not in path.parts]  # templates
    pages = {path.resolve(): Page(path) for path in files}
    faults = []
    for path, page in pages.items():
        where = path.relative_to(site.resolve())
        for target in page.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not file.is_file():
                faults.append(f"{where}: {target} leads to no file")
            elif (
                parts.fragment and file in pages and unquote(parts.fragment) not in pages[file].ids
            ):
                faults.append(f"{where}: {target} leads to no place in its page")
    return faults
