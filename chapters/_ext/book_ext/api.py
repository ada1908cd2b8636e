"""The reference pages: this checkout's packages for autodoc, and a list of a package's modules."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective


class ModulesDirective(SphinxDirective):
    """`{modules} bench`: each module of a package, and what it says of itself in one line."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        package = self.arguments[0]
        shown = nodes.definition_list()
        for path in sorted(Path(self.env.srcdir, *package.split(".")).glob("[a-z]*.py")):
            self.env.note_dependency(str(path))
            about = ast.get_docstring(ast.parse(path.read_text())) or ""
            term = nodes.term("", "", nodes.literal("", f"{package}.{path.stem}"))
            line = nodes.paragraph("", about.split("\n\n")[0].replace("\n", " ").replace("`", ""))
            shown += nodes.definition_list_item("", term, nodes.definition("", line))
        return [shown]


def connect(app) -> None:
    app.add_directive("modules", ModulesDirective)
    app.connect("config-inited", find_packages)
    # Before napoleon, which takes what stands before a colon in the first line for a type.
    app.connect("autodoc-process-docstring", dash_first_line, priority=400)


def find_packages(app, config) -> None:
    sys.path.insert(0, str(app.srcdir))
    # The default of a field, for which autodoc makes a link that leads nowhere.
    config.nitpick_ignore = [*config.nitpick_ignore, ("py:class", "contextlib.nullcontext")]


def dash_first_line(app, what, name, obj, options, lines: list[str]) -> None:
    if what in ("property", "attribute") and lines:
        lines[0] = lines[0].replace(": ", " – ", 1)
