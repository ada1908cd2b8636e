"""The whole book as one PDF, printed by Chromium: `python -m book_ext.pdf`.

All pages of the built website are joined into one, in the order of the table of contents, so that
links between them become links inside the PDF. Figures are drawn once, as they first show.
Solutions and numbers that are folded on the website are open; code that is folded there, which
draws the figures, is left out. No TeX is needed.
"""

from __future__ import annotations

import functools
import http.server
import sys
import threading
import time
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import yaml
from bs4 import BeautifulSoup

from . import browser

ROOT = Path(__file__).resolve().parents[3]
NAME = "gpu-optimization-book.pdf"
PATIENCE_MS = 600_000  # to typeset and to print, on a slow machine
PAPER_PX = 672  # the text of an A4 page, 178 mm wide
# What only a screen can use: the slider of the explorer of chapter 3, the controls of lab 2.
# A replay is drawn by a script that reads its controls, so both stay, and the controls are hidden.
LEFT_OUT = "script, .headerlink, .book-switch:not(.book-replay .book-switch), "
LEFT_OUT += ".book-figure .book-explorer, .copybtn, .toggle-button, iframe, "
LEFT_OUT += "#jb-print-docs-body, #jb-print-toc, .tag_hide-input details.hide"
STYLE = """
@page { size: A4; margin: 18mm 16mm; }
html { font-size: 13px; }
body, main { display: block !important; }
.book-page { break-before: page; }
.book-page:first-child { break-before: auto; }
article { max-width: none; padding: 0 !important; }
article h1 { display: block !important; }
pre, code { white-space: pre-wrap; overflow-wrap: anywhere; }
pre, figure, .book-figure, .book-drawing, .admonition-title, tr { break-inside: avoid; }
h1, h2, h3, h4, .admonition-title { break-after: avoid; }
.cell_output .output, .book-table-wrap, .pst-scrollable-table-container { overflow: visible; }
table { font-size: 0.8em; }
.admonition, .highlight, pre { box-shadow: none !important; }
details > summary { list-style: none; }
.book-replay .book-switch { display: none !important; }
.book-replay canvas { break-inside: avoid; }
"""


def names(entry: dict | list) -> list[str]:
    """All pages that a table of contents names, in its order."""
    if isinstance(entry, list):
        return [name for part in entry for name in names(part)]
    own = [entry[key] for key in ("root", "file") if key in entry]
    return own + names([entry[k] for k in ("parts", "chapters", "sections") if k in entry])


def join(site: Path, pages: list[str]) -> str:
    """One HTML page of all pages; places and links are named after the page they were in."""
    files = {
        name: BeautifulSoup((site / f"{name}.html").read_text(), "html.parser") for name in pages
    }
    whole = BeautifulSoup((site / f"{pages[0]}.html").read_text(), "html.parser")
    base = "../" * pages[0].count("/")
    head = BeautifulSoup("", "html.parser")
    for style in whole.select("link[rel=stylesheet]"):
        head.append(style)
    # MathJax with its settings, and the drawing of figures, from whichever page has them.
    kept = {}
    for soup in files.values():
        for script in soup.select("script"):
            if script.find_parent("article"):  # of a single figure
                continue
            words = f"{script.get('src', '')} {script.string or ''}"
            if any(part in words for part in ("MathJax", "mathjax", "plotly")):
                kept.setdefault(
                    PurePosixPath(urlsplit(script.get("src", "")).path).name or script.string,
                    script,
                )
    for script in kept.values():
        if script.get("src"):
            script["src"] = base + "_static/" + script["src"].split("_static/")[-1]
        head.append(script)
    title = files[pages[0]].h1.find(string=True)
    parts = []
    for name, soup in files.items():
        article = soup.select_one("article.bd-article, article, main")
        for data in article.select(
            ".book-plotly script, .book-replay script, .book-replay + script"
        ):
            data.name = "data-kept"
        for part in article.select(LEFT_OUT):
            part.decompose()
        for data in article.select("data-kept"):
            data.name = "script"
        for fold in article.select("details"):
            fold["open"] = ""
        for folded in article.select(".toggle, .dropdown"):
            folded["class"] = [c for c in folded["class"] if c not in ("toggle", "dropdown")]
        rename(article, name, set(files), base)
        article["id"] = place(name, "")
        parts.append(f'<div class="book-page">{article}</div>')
    return (
        f'<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8">'
        f"<title>{title}</title>{head}<style>{STYLE}</style></head>"
        f'<body><main class="bd-content">{"".join(parts)}</main></body></html>'
    )


def place(page: str, anchor: str) -> str:
    """The name that a place of a page has in the joined one."""
    return f"{page}:{anchor}".replace("/", "-")


def rename(article, page: str, known: set[str], base: str) -> None:
    """Names of places, and the links and sources of an article, as they are in the joined page."""
    folder = PurePosixPath(page).parent
    for element in article.select("[id]"):
        element["id"] = place(page, element["id"])
    for element in article.select("[href], [src]"):
        key = "href" if element.get("href") is not None else "src"
        parts = urlsplit(element[key])
        if parts.scheme or parts.netloc:
            continue
        target = resolve(folder, parts.path) if parts.path else f"{page}.html"
        name = target.removesuffix(".html")
        if key == "href" and name in known:
            element["href"] = "#" + place(name, parts.fragment)
        elif key == "href" and element.name == "a":
            del element["href"]  # a file or a page that the PDF does not have
        else:
            element[key] = base + target


def resolve(folder: PurePosixPath, path: str) -> str:
    """A relative address, from the root of the site."""
    parts: list[str] = []
    for part in (folder / path).parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def serve(site: Path):
    """(server, its address) of a folder, on a free port of this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"


# Every figure is drawn, then stands still; every formula is typeset; every fold is open.
READY = """async () => {
  await document.fonts.ready;
  await MathJax?.startup?.promise;
  const drawn = () => [...document.querySelectorAll('.book-plotly')]
    .every((f) => f.querySelector('svg.main-svg'));
  while (window.Plotly && !drawn()) await new Promise((done) => setTimeout(done, 50));
  return document.querySelectorAll('.book-plotly').length;
}"""


def write(site: Path, pages: list[str], target: Path, chromium) -> int:
    """Print pages of a built site with an open browser; return how many figures were drawn."""
    joined = site / PurePosixPath(pages[0]).parent / "joined-for-print.html"
    joined.write_text(join(site, pages))
    server, address = serve(site)
    context = chromium.new_context(viewport={"width": PAPER_PX, "height": 1000})
    try:
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.emulate_media(media="print", color_scheme="light")
        page.goto(f"{address}/{joined.relative_to(site)}", wait_until="load")
        figures = page.evaluate(READY)
        page.pdf(
            path=target,
            prefer_css_page_size=True,
            print_background=True,
            outline=True,
            tagged=True,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template='<div style="font-size: 8px; width: 100%; text-align: center">'
            '<span class="pageNumber"></span></div>',
        )
    finally:
        context.close()
        server.shutdown()
        joined.unlink()
    return figures


def main() -> None:
    site = ROOT / "_build/html"
    if not (site / "index.html").exists():
        sys.exit("There is no book in _build/html: run `make book` first.")
    executable = browser.find()
    if executable is None:
        sys.exit(browser.ADVICE)
    from playwright.sync_api import sync_playwright

    began = time.monotonic()
    pages = names(yaml.safe_load((ROOT / "_toc.yml").read_text()))
    target = site.parent / NAME
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable, chromium_sandbox=False)
        figures = write(site, pages, target, chromium)
        chromium.close()
    print(
        f"{target.relative_to(ROOT)}: {len(pages)} pages of the website, {figures} figures, "
        f"{target.stat().st_size / 2**20:.1f} MiB, {time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
