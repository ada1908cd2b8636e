"""Each page with code, as a notebook: plain Markdown, and a first cell that fetches the book.

The notebooks are written at the end of a build, from the pages as Sphinx resolved them: included
code, references, numbers and citations are then in place. They have no outputs: whoever opens one
runs it.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from urllib.parse import quote, urljoin

from docutils import nodes
from myst_nb.core.read import create_nb_reader
from sphinx import addnodes
from sphinx.util import logging

from . import repository

log = logging.getLogger(__name__)

FOLDER = "notebooks"  # beside the pages, in the site and on the branch that it is published from
COLAB = "https://colab.research.google.com/github"
PUZZLE = re.compile(r"chapters/puzzles/(?!\w+_solution\.py)\w+\.py$")
HIDDEN = {"jupyter": {"source_hidden": True}, "cellView": "form"}  # for JupyterLab, and for Colab
SKIPPED = (nodes.target, nodes.comment, nodes.colspec, nodes.substitution_definition)
SKIPPED += (nodes.system_message, nodes.meta, addnodes.toctree, addnodes.index)


def connect(app) -> None:
    app.connect("doctree-read", note_code)
    app.connect("html-page-context", add_buttons, priority=600)  # after the theme's own buttons
    app.connect("build-finished", write_all)


def note_code(app, doctree) -> None:
    """Remember which pages have code."""
    if any(is_cell(node) for node in doctree.findall(nodes.container)):
        app.env.metadata[app.env.docname]["code"] = "yes"


def executable(env) -> list[str]:
    return sorted(name for name in env.found_docs if env.metadata[name].get("code"))


def is_cell(node) -> bool:
    return isinstance(node, nodes.container) and node.get("nb_element") == "cell_code"


def colab_address(page: str, place) -> str | None:
    """Where Colab opens the published notebook of a page; None without a repository on GitHub."""
    if place.url is None or not place.url.startswith("https://github.com/"):
        return None
    path = f"{place.url.removeprefix('https://github.com/')}/blob/{place.site_branch}"
    return f"{COLAB}/{path}/{FOLDER}/{quote(page)}.ipynb"


def add_buttons(app, pagename, templatename, context, doctree) -> None:
    """On pages with code: open it in Colab, and download it."""
    if "header_buttons" not in context or pagename not in app.env.found_docs:
        return
    if not app.env.metadata[pagename].get("code"):
        return
    notebook = context["pathto"](f"{FOLDER}/{pagename}.ipynb", 1)
    download = {
        "type": "link",
        "url": notebook,
        "text": ".ipynb",
        "icon": "fas fa-code",
        "tooltip": "Download this page as a notebook",
        "label": "download-notebook-button",
    }
    for button in context["header_buttons"]:
        if button.get("label") == "download-buttons":
            button["buttons"].insert(0, download)
    address = colab_address(pagename, repository.find(app.srcdir))
    if address:
        colab = {
            "type": "link",
            "url": address,
            "text": "Colab",
            "icon": "fas fa-rocket",
            "tooltip": "Open in Colab",
            "label": "colab-button",
        }
        context["header_buttons"].insert(0, colab)


def write_all(app, exception) -> None:
    """Write the notebook of every page, also of those that this build did not read anew."""
    if exception or app.builder.format != "html":
        return
    place = repository.find(app.srcdir)
    for page in executable(app.env):
        doctree = app.env.get_and_resolve_doctree(page, app.builder)
        notebook = convert(app, page, doctree, place)
        path = Path(app.outdir, FOLDER, f"{page}.ipynb")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


def convert(app, page: str, doctree, place) -> dict:
    """A page as a notebook of format 4.5, as a dict."""
    sources = read_cells(app.env, page)
    writer = Writer(app, page, place.site)
    writer.code(setup_cell(page, place), {"tags": ["setup"]})
    shown = {c["cell_index"] for c in doctree.findall(nodes.container) if is_cell(c)}
    writer.waiting = [cell for cell in sources if cell[0] not in shown]
    writer.sources = {index: (source, tags) for index, source, tags in sources}
    writer.flow(doctree.children)
    writer.hidden_cells(before=None)
    writer.flush()
    for i, cell in enumerate(writer.cells):
        cell["id"] = f"cell-{i}"
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {
            "accelerator": "GPU",
            "colab": {"gpuType": "T4", "provenance": []},
            "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
            "language_info": {"name": "python"},
        },
        "cells": writer.cells,
    }


def read_cells(env, page: str) -> list[tuple[int, str, list[str]]]:
    """(number, source, tags) of each code cell, as written, also of those the page leaves out."""
    path = env.doc2path(page)
    text = Path(path).read_text()
    reader = create_nb_reader(path, env.myst_config, env.mystnb_config, text)
    cells = enumerate(reader.read(text).cells)
    return [
        (i, c.source, list(c.metadata.get("tags", []))) for i, c in cells if c.cell_type == "code"
    ]


FETCH = """\
# Run this cell first. It fetches the book's code, installs what is missing
# without touching PyTorch and Triton, and says what the GPU here allows.
import os
import subprocess
import sys

COMMIT = "{commit}"
ADDRESS = "{url}"
SOURCE = os.environ.get("BOOK_REPOSITORY_URL", ADDRESS)
OWN = os.path.abspath(f"book-{COMMIT[:7]}")
FOLDER = os.environ.setdefault("BOOK_FOLDER", OWN)
if not os.path.exists(FOLDER):
    subprocess.run(["git", "clone", "--quiet", SOURCE, FOLDER], check=True)
    checkout = ["git", "-C", FOLDER, "checkout", "--quiet", COMMIT]
    subprocess.run(checkout, check=True)
sys.path.insert(0, FOLDER)
from bench import notebook

notebook.start("{folder}")
"""
# What stands before the clone where the notebook does not know where the book lives.
ASK = """\
if not (SOURCE or os.path.exists(FOLDER)):
    sys.exit("Set BOOK_REPOSITORY_URL in os.environ to an address to clone the book "
             "from, or BOOK_FOLDER to a folder that holds it, and run this cell again.")
"""


def setup_cell(page: str, place) -> str:
    """The first cell: it fetches the book at the commit that the notebook was made from."""
    ask = "" if place.url else ASK
    return (
        FETCH.replace("if not os.path", f"{ask}if not os.path", 1)
        .replace("{commit}", place.commit or "HEAD", 1)
        .replace("{url}", place.url or "")
        .replace("{folder}", posixpath.dirname(page))
        .rstrip()
    )


class Writer:
    """Cells from the nodes of a resolved page."""

    def __init__(self, app, page: str, site: str | None):
        self.app = app
        self.builder = app.builder
        self.page = page
        self.address = urljoin(site, app.builder.get_target_uri(page)) if site else None
        self.cells: list[dict] = []
        self.blocks: list[str] = []  # Markdown that waits for its cell
        self.level = 0
        self.waiting: list[tuple[int, str, list[str]]] = []
        self.sources: dict[int, tuple[str, list[str]]] = {}

    # --- cells -------------------------------------------------------------------------------

    def code(self, source: str, metadata: dict | None = None) -> None:
        self.flush()
        cell = {"cell_type": "code", "metadata": metadata or {}, "source": lines_of(source)}
        self.cells.append(cell | {"execution_count": None, "outputs": []})

    def flush(self) -> None:
        text = "\n\n".join(block for block in self.blocks if block.strip())
        self.blocks = []
        if text:
            cell = {"cell_type": "markdown", "metadata": {}, "source": lines_of(text)}
            self.cells.append(cell)

    def hidden_cells(self, before: int | None) -> None:
        """Cells that the page leaves out are run, in their order."""
        while self.waiting and (before is None or self.waiting[0][0] < before):
            _, source, tags = self.waiting.pop(0)
            self.code(source, {"tags": tags, **HIDDEN})

    def cell(self, node) -> None:
        self.hidden_cells(before=node["cell_index"])
        source, tags = self.sources[node["cell_index"]]
        metadata = {"tags": tags} if tags else {}
        if "hide-input" in tags or "hide-cell" in tags or "remove-input" in tags:
            metadata |= HIDDEN
        self.code(source, metadata)

    # --- the flow of a page: what may hold cells -----------------------------------------------

    def flow(self, children) -> None:
        for node in children:
            kind = type(node).__name__
            if is_cell(node):
                self.cell(node)
            elif isinstance(node, nodes.section):
                self.section(node)
            elif kind in ("exercise_node", "exercise_enumerable_node"):
                self.exercise(node)
            elif kind == "solution_node":
                self.solution(node)
            elif isinstance(node, (nodes.container, nodes.compound)) and any(
                is_cell(n) for n in node.findall(nodes.container)
            ):
                self.flow(node.children)
            elif is_puzzle(node):
                self.puzzle(node)
            elif isinstance(node, nodes.title):
                self.title(node)
            else:
                self.blocks.append(self.block(node))

    def title(self, node) -> None:
        """A heading begins a cell, so that the parts of a notebook fold; the first says whence."""
        self.flush()
        self.blocks.append(f"{'#' * self.level} {self.inline(node)}")
        if self.level == 1:
            link = f"[this page]({self.address})" if self.address else "a page"
            self.blocks.append(
                f"> Made from {link} of the book. Numbers within the text are those of that page; "
                "what a cell shows is measured where it runs, or says where it was recorded."
            )

    def section(self, node) -> None:
        self.level += 1
        self.flow(node.children)
        self.level -= 1

    def exercise(self, node) -> None:
        title, *rest = node.children
        number = self.number(node, "exercise")
        words = f"Exercise {number}".strip() + self.inline(title).removeprefix("Exercise")
        self.flush()
        self.blocks.append(f"**{words}**")
        self.flow(flat(rest))

    def solution(self, node) -> None:
        """Hidden until it is opened, as on the page; its cells stand between its parts."""
        title, *rest = node.children
        self.flush()
        name, again = html_text(title.astext()), ""
        for part in parts(flat(rest)):
            if is_cell(part[0]):
                self.cell(part[0])
                continue
            text = "\n\n".join(filter(None, map(self.block, part)))
            if text:
                summary = f"<summary>{name}{again}</summary>"
                self.blocks.append(f"<details>{summary}\n\n{text}\n\n</details>")
                again = ", continued"
        self.flush()

    def puzzle(self, node) -> None:
        """The file of a puzzle, to be completed in the notebook; running the cell saves it."""
        path = Path(node["source"])
        root = posixpath.relpath("chapters", posixpath.dirname(self.page))
        target = posixpath.normpath(posixpath.join(root, "puzzles", path.name))
        self.blocks.append(
            "Complete it here. Running the cell saves it, and the next one checks what was saved."
        )
        self.code(f"%%writefile {target}\n{path.read_text()}", {"tags": ["puzzle"]})

    # --- blocks: Markdown that stands alone ----------------------------------------------------

    def block(self, node) -> str:
        if isinstance(node, SKIPPED):
            return ""
        for kind in type(node).__mro__:
            rule = getattr(self, f"block_{kind.__name__}", None)
            if rule:
                return rule(node)
        if isinstance(node, (nodes.Inline, nodes.Text)):
            return self.inline_of(node)
        log.warning("notebooks have no rule for the node %s", type(node).__name__, location=node)
        return ""

    def children(self, node) -> str:
        return "\n\n".join(filter(None, map(self.block, node.children)))

    block_compound = block_section = block_topic = block_legend = children
    block_figure = block_sidebar = block_glossary = children

    def block_container(self, node) -> str:
        component = node.get("design_component")
        if component == "card-title":
            return f"**{self.inline(node).strip()}**"
        if node.get("nb_element") == "cell_code_output":
            return ""
        return self.children(node)

    def block_paragraph(self, node) -> str:
        return safe_lines(self.inline(node))

    block_PassthroughTextElement = block_paragraph
    block_attribution = block_paragraph

    def block_caption(self, node) -> str:
        return f"*{self.inline(node)}*"

    def block_rubric(self, node) -> str:
        return f"**{self.inline(node)}**"

    block_title = block_rubric

    def block_literal_block(self, node) -> str:
        language = {"ipython3": "python", "default": "", "none": ""}.get(
            node.get("language", ""), node.get("language", "")
        )
        text = node.astext().rstrip("\n")
        fence = max(["```", *(m + "`" for m in re.findall(r"`{3,}", text))], key=len)
        return f"{fence}{language}\n{text}\n{fence}"

    def block_math_block(self, node) -> str:
        text = node.astext().strip()
        number = self.number(node, "displaymath") if node.get("number") else ""
        if node.get("no-wrap", node.get("nowrap")) and not number:
            return text
        if r"\\" in text and r"\begin" not in text:
            text = f"\\begin{{aligned}}\n{text}\n\\end{{aligned}}"
        tag = f" \\tag{{{number}}}" if number else ""
        return f"$$\n{text}{tag}\n$$"

    def block_bullet_list(self, node) -> str:
        return "\n".join(indented(self.children(item), "- ") for item in node.children)

    def block_enumerated_list(self, node) -> str:
        start = node.get("start", 1)
        return "\n".join(
            indented(self.children(item), f"{i}. ") for i, item in enumerate(node.children, start)
        )

    def block_definition_list(self, node) -> str:
        items = []
        for item in node.children:
            terms = [self.inline(t) for t in item.children if isinstance(t, nodes.term)]
            rest = [self.block(d) for d in item.children if isinstance(d, nodes.definition)]
            items.append(indented(f"**{', '.join(terms)}**: " + "\n\n".join(rest), "- "))
        return "\n".join(items)

    block_definition = children

    def block_block_quote(self, node) -> str:
        return indented(self.children(node), "> ", "> ")

    def block_Admonition(self, node) -> str:
        children = list(node.children)
        if children and isinstance(children[0], nodes.title):
            title = self.inline(children.pop(0))
        else:
            title = type(node).__name__.removesuffix("_node").capitalize()
        body = "\n\n".join(filter(None, map(self.block, flat(children))))
        return indented(f"**{title}**\n\n{body}", "> ", "> ")

    def block_table(self, node) -> str:
        head = [row for thead in node.findall(nodes.thead) for row in thead.children]
        body = [row for tbody in node.findall(nodes.tbody) for row in tbody.children]
        rows = [[self.entry(e) for e in row.children] for row in head + body]
        width = max(map(len, rows))
        if not head:
            rows.insert(0, [""] * width)
        rows.insert(1, ["---"] * width)
        title = [f"*{self.inline(t)}*" for t in node.children if isinstance(t, nodes.title)]
        table = "\n".join(f"| {' | '.join(row + [''] * (width - len(row)))} |" for row in rows)
        return "\n\n".join([*title, table])

    def entry(self, node) -> str:
        text = " ".join(self.children(node).split())
        # A bar ends a column, also within code and math.
        parts = re.split(r"((?<!\\)\$.*?\$)", text)
        parts[1::2] = [part.replace("|", r"\vert ") for part in parts[1::2]]
        parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
        return "".join(parts)

    def block_transition(self, node) -> str:
        return "---"

    def block_raw(self, node) -> str:
        # Scripts are the website's.
        shown = node.get("format") == "html" and "<script" not in node.astext()
        return node.astext() if shown else ""

    def block_image(self, node) -> str:
        text = node.get("alt", "")
        name = self.builder.images.get(node["uri"])
        if self.address and name:
            folder = self.builder.get_relative_uri(self.page, "_images")
            folder = posixpath.dirname(folder) or "."
            return f"![{text}]({urljoin(self.address, f'{folder}/_images/{name}')})"
        return f"*(a picture on the book's website: {text})*" if text else ""

    def block_line_block(self, node) -> str:
        return "  \n".join(self.inline(line) for line in node.children)

    def block_footnote(self, node) -> str:
        label, *rest = node.children
        return f"[{label.astext()}] " + "\n\n".join(map(self.block, rest))

    # --- inline: Markdown within a line ---------------------------------------------------------

    def inline(self, node) -> str:
        return "".join(map(self.inline_of, node.children))

    def inline_of(self, node) -> str:
        if isinstance(node, SKIPPED):
            return ""
        if isinstance(node, nodes.Text):
            return escaped(str(node))
        if isinstance(node, nodes.math):
            return f"${' '.join(node.astext().split())}$"
        if isinstance(node, (nodes.emphasis, addnodes.literal_emphasis)):
            return f"*{self.inline(node)}*"
        if isinstance(node, nodes.strong):
            return f"**{self.inline(node)}**"
        if isinstance(node, nodes.literal):
            return code_span(node.astext())
        if isinstance(node, nodes.reference):
            return self.reference(node)
        if isinstance(node, addnodes.download_reference):
            return self.inline(node)
        if isinstance(node, nodes.image):
            return self.block_image(node)
        if isinstance(node, nodes.raw):
            return self.block_raw(node)
        if isinstance(node, nodes.footnote_reference):
            return f"[{node.astext()}]"
        if isinstance(node, (nodes.Inline, nodes.TextElement)):
            return self.inline(node)
        if isinstance(node, nodes.container):
            return self.inline(node)
        log.warning("notebooks have no rule for the node %s", type(node).__name__, location=node)
        return escaped(node.astext())

    def reference(self, node) -> str:
        """A link: to another site as it is, into the book by the website's address."""
        text = self.inline(node)
        target = node.get("refuri") or f"#{node.get('refid', '')}"
        if re.match(r"\w+:", target):
            return f"[{text}]({target})"
        return f"[{text}]({urljoin(self.address, target)})" if self.address else text

    def number(self, node, kind: str) -> str:
        """The number that the page shows for an exercise or equation."""
        numbers = self.app.env.toc_fignumbers.get(self.page, {}).get(kind, {})
        for name in node["ids"]:
            if name in numbers:
                return ".".join(map(str, numbers[name]))
        return ""


def flat(children) -> list:
    """Nodes without the sections that only wrap the content of an exercise."""
    found = []
    for node in children:
        found += flat(node.children) if isinstance(node, nodes.section) else [node]
    return found


def parts(children) -> list[list]:
    """Runs of nodes without code, and each cell by itself."""
    found: list[list] = []
    for node in children:
        if is_cell(node) or not found or is_cell(found[-1][0]):
            found.append([node])
        else:
            found[-1].append(node)
    return found


def is_puzzle(node) -> bool:
    """Whether a block shows the file of a puzzle that the reader is to complete."""
    return isinstance(node, nodes.literal_block) and bool(PUZZLE.search(node.get("source", "")))


def lines_of(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def indented(text: str, first: str, rest: str | None = None) -> str:
    rest = " " * len(first) if rest is None else rest
    lines = text.splitlines() or [""]
    return "\n".join([first + lines[0], *((rest + line).rstrip() for line in lines[1:])])


def escaped(text: str) -> str:
    """Text whose characters mean nothing in Markdown."""
    text = re.sub(r"([\\`*<$])", r"\\\1", text)
    text = re.sub(r"\](?=[(\[:])", r"\\]", text)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)


def safe_lines(text: str) -> str:
    """A paragraph of which no line begins like a list, a heading or a quote."""
    text = re.sub(r"^(\s*)([-+#>])(?=\s)", r"\1\\\2", text, flags=re.MULTILINE)
    return re.sub(r"^(\s*\d+)([.)])(?=\s)", r"\1\\\2", text, flags=re.MULTILINE)


def code_span(text: str) -> str:
    ticks = max(["", *re.findall(r"`+", text)], key=len) + "`"
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


def html_text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
