"""Scripts that pages load: from installed packages, never from another host, and only if needed."""

from __future__ import annotations

import re
import shutil
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path

MATHJAX = "mathjax/tex-chtml.js"
PLOTLY = "plotly.min.js"


def connect(app) -> None:
    app.add_js_file("book.js", loading_method="defer")
    app.connect("config-inited", point_to_mathjax)
    app.connect("builder-inited", copy_scripts)
    # After the extensions that add scripts to every page.
    app.connect("html-page-context", choose_scripts, priority=900)
    app.connect("build-finished", mend_pages)


def point_to_mathjax(app, config) -> None:
    config.mathjax_path = MATHJAX


def copy_scripts(app) -> None:
    """Put MathJax and plotly.js beside the book's own scripts."""
    if app.builder.format != "html":
        return
    static = Path(app.outdir, "_static")
    static.mkdir(parents=True, exist_ok=True)
    # The package's module name is not an identifier, so it is found by its files.
    mathjax = distribution("sphinx-mathjax-offline").locate_file("sphinx-mathjax-offline")
    for part in (Path(MATHJAX).name, "output/chtml/fonts", "input/tex/extensions"):
        copy(Path(str(mathjax), "static/mathjax", part), static / "mathjax" / part)
    copy(Path(str(files("plotly") / "package_data" / PLOTLY)), static / PLOTLY)


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    elif not target.exists() or target.stat().st_size != source.stat().st_size:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def choose_scripts(app, pagename, templatename, context, doctree) -> None:
    """Add plotly.js where there is a figure; drop Thebe, which is off and fails on every page."""
    context["script_files"][:] = [s for s in context["script_files"] if not is_thebe(s)]
    if 'class="book-plotly"' in context.get("body", ""):
        app.add_js_file(PLOTLY, loading_method="defer")
        app.add_js_file("book-plotly.js", loading_method="defer")


def is_thebe(script) -> bool:
    return "thebe" in str(script.filename or "") or "THEBE" in script.attributes.get("body", "")


# What the theme and Sphinx write and no setting changes, with what stands there instead.
MENDS = {
    # From a folder a browser refuses fonts that a page preloads; the style sheets load them.
    re.compile(r'<link rel="preload" as="font"[^>]*>\n?'): "",
    # The entries of a bibliography have a role of their own, which a list may not hold.
    re.compile(r'<div role="list" class="citation-list">'): '<div class="citation-list">',
}


def mend_pages(app, exception) -> None:
    """Mend pages after they are written."""
    if exception or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        text = mended = path.read_text()
        for fault, better in MENDS.items():
            mended = fault.sub(better, mended)
        if mended != text:
            path.write_text(mended)
