"""The status page: where, when and how long each page was executed, and with which versions.

The times come from the cache of the outputs, so they are those of the execution that made what a
page shows, which may be that of an earlier build.
"""

from __future__ import annotations

import platform
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from . import executed

PACKAGES = ("torch", "triton", "numpy", "pandas", "plotly", "jupyter-book", "sphinx", "myst-nb")
PACKAGES += ("sphinx-book-theme", "ipykernel")


class status_here(nodes.General, nodes.Element):
    """Where the tables go, once every page has been read; `part` says which of them."""


class StatusDirective(SphinxDirective):
    """`{status} pages` or `{status} versions`."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        self.env.metadata[self.env.docname]["status"] = True
        return [status_here(part=self.arguments[0])]


def connect(app) -> None:
    app.add_node(status_here)
    app.add_directive("status", StatusDirective)
    app.connect("env-updated", pages_to_write)
    app.connect("doctree-resolved", fill)


def pages_to_write(app, env) -> list[str]:
    """The pages that show the status of others, which may have changed."""
    return [name for name, facts in env.metadata.items() if facts.get("status")]


def fill(app, doctree, docname: str) -> None:
    """Put the tables in their place."""
    for place in list(doctree.findall(status_here)):
        place.replace_self(pages(app, docname) if place["part"] == "pages" else [versions(app)])


def machine(app) -> str:
    """Where the outputs of this build were made, in a few words."""
    facts = executed.read(Path(app.config.nb_execution_cache_path))
    gpu = facts["gpu"] if facts else None
    return gpu or "CPU, Triton's interpreter"


def order(env, name: str) -> list[str]:
    """A page and all pages under it, in the order of the table of contents."""
    return [name, *(n for child in env.toctree_includes.get(name, []) for n in order(env, child))]


def pages(app, docname: str) -> list[nodes.Node]:
    """One row for each page that runs code, and how long all of them took."""
    rows, total = [], 0.0
    for name in order(app.env, app.config.root_doc):
        facts = app.env.nb_metadata.get(name, {}).get("exec_data")
        if not facts:
            continue
        seconds = facts["runtime"] or 0.0
        total += seconds
        when = datetime.fromtimestamp(facts["mtime"], tz=timezone.utc).strftime("%Y-%m-%d %H:%M")
        title = app.env.titles[name].astext()
        uri = app.builder.get_relative_uri(docname, name)
        link = nodes.reference("", title, refuri=uri, internal=True)
        state = "complete" if facts["succeeded"] else "failed"
        rows.append([link, machine(app), when, f"{seconds:.0f}", state])
    columns = ["Page", "Executed on", "When (UTC)", "Seconds", "State"]
    words = f"{len(rows)} pages run code; together they took {total:.0f} seconds."
    return [nodes.paragraph("", words), table(columns, rows)]


def versions(app) -> nodes.Node:
    """What the book was built with; torch and triton are those that its pages ran with."""
    facts = executed.read(Path(app.config.nb_execution_cache_path)) or {}
    rows = [["Python", platform.python_version()]]
    for name in PACKAGES:
        try:
            rows.append([name, facts.get(name) or version(name)])
        except PackageNotFoundError:
            rows.append([name, "not installed"])
    if facts.get("commit"):
        rows.append(["commit of the book", facts["commit"][:7]])
    return table(["Part", "Version"], rows)


def table(columns: list[str], rows: list[list]) -> nodes.Node:
    """A table; each cell is text or an inline node."""
    group = nodes.tgroup(cols=len(columns))
    group += [nodes.colspec(colwidth=1) for _ in columns]
    head, body = nodes.thead(), nodes.tbody()
    head += row(columns)
    body += [row(cells) for cells in rows]
    group += [head, body]
    return nodes.table("", group, classes=["book-status"])


def row(cells: list) -> nodes.row:
    inline = (nodes.Text(cell) if isinstance(cell, str) else cell for cell in cells)
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", cell)) for cell in inline))
