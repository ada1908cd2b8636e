"""The page of all claims: what each page states, whether it holds, and by what that was decided.

A claim leaves its facts in the HTML of its box (`bench/claims.py`). They are read from there, so a
page whose outputs come from the cache of an earlier execution has them as well.
"""

from __future__ import annotations

import html
import json
import re
from collections import Counter

from docutils import nodes
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

log = logging.getLogger(__name__)

FACTS = re.compile(r'data-claim="([^"]*)"')
REFUSED = re.compile(r'<pre data-refused="([^"]*)">(.*?)</pre>', re.DOTALL)
COLUMNS = {"verdict": 14, "claim": 36, "evidence": 36, "GPU": 14}


class claims_here(nodes.General, nodes.Element):
    """Where the list of all claims goes, once every page has been read."""


class ClaimsDirective(SphinxDirective):
    """`{claims}`: all claims of the book, page by page; `{claims} failed`: those that failed."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        self.env.metadata[self.env.docname]["claims"] = True
        return [claims_here(failed=self.arguments == ["failed"])]


def connect(app) -> None:
    app.add_node(claims_here)
    app.add_directive("claims", ClaimsDirective)
    app.connect("env-before-read-docs", lambda app, env, names: claims_of(env))
    app.connect("env-purge-doc", lambda app, env, name: claims_of(env).pop(name, None))
    app.connect("env-merge-info", lambda app, env, names, other: merge(env, names, other))
    app.connect("doctree-read", collect)
    app.connect("env-updated", pages_to_write)
    app.connect("env-check-consistency", warn_of_surprises)
    app.connect("doctree-resolved", fill)


def claims_of(env) -> dict[str, list[dict]]:
    """Page → the facts of its claims; kept with the environment from build to build."""
    if not hasattr(env, "book_claims"):
        env.book_claims = {}
    return env.book_claims


def merge(env, names, other) -> None:
    claims_of(env).update({n: c for n, c in claims_of(other).items() if n in names})


def collect(app, doctree) -> None:
    """Read the claims of a page from the HTML among its outputs."""
    found = []
    for node in doctree.findall(nodes.raw):
        if "html" in node.get("format", ""):
            warn_of_solutions(node.astext(), app.env.docname)
            found += [json.loads(html.unescape(x)) for x in FACTS.findall(node.astext())]
    if found:
        claims_of(app.env)[app.env.docname] = found


def warn_of_solutions(text: str, page: str) -> None:
    """A solution that its own checker refuses: wrong, or dearer than it allows."""
    for name, words in REFUSED.findall(text):
        message = "the solution of the puzzle %s is refused: %s"
        facts = html.unescape(name), html.unescape(" ".join(words.split()))
        log.warning(message, *facts, location=page, type="book", subtype="puzzle")


def pages_to_write(app, env) -> list[str]:
    """The pages that list claims, since any other page may have changed."""
    return [name for name, facts in env.metadata.items() if facts.get("claims")]


def warn_of_surprises(app, env) -> None:
    """A recorded claim that comes out otherwise than its page expects fails a strict build.

    So does one that is not decided: what decided it is no longer in the record.
    """
    for name, claims in claims_of(env).items():
        for c in claims:
            odd = c["surprising"] or c["held"] is None
            if odd and not c["live"] and "H100" in c["gpu"]:
                message = "claim on recorded data: %s: %s (%s)"
                facts = c["verdict"], c["sentence"], c["evidence"]
                log.warning(message, *facts, location=name, type="book", subtype="claim")


def fill(app, doctree, docname: str) -> None:
    """Put the list in its place."""
    for place in list(doctree.findall(claims_here)):
        place.replace_self(listing(app, docname, place["failed"]))


def listing(app, docname: str, failed: bool = False) -> list[nodes.Node]:
    """How many claims there are, and a table of those of each page; all, or those that failed."""
    every = {
        name: [c for c in found if not failed or c["held"] is False]
        for name, found in sorted(claims_of(app.env).items())
    }
    every = {name: found for name, found in every.items() if found}
    verdicts = Counter(c["verdict"] for found in every.values() for c in found)
    counted = "; ".join(f"{n} {verdict.lower()}" for verdict, n in verdicts.most_common())
    summary = f"{verdicts.total()} claims on {len(every)} pages: {counted or 'none'}."
    shown: list[nodes.Node] = [nodes.paragraph("", summary)]
    for name, found in every.items():
        title = app.env.titles[name].astext()
        section = nodes.section(ids=[nodes.make_id(f"claims-{name}")])
        section += nodes.title("", "", link(app, docname, name, "", title))
        section += table(
            [
                [(nodes.strong if c["surprising"] else nodes.inline)("", c["verdict"])],
                [link(app, docname, name, c["anchor"], c["sentence"])],
                [nodes.Text(c["evidence"])],
                [nodes.Text(f"{c['gpu']}, {'live' if c['live'] else 'recorded'}")],
            ]
            for c in found
        )
        shown.append(section)
    return shown


def link(app, here: str, there: str, anchor: str, text: str) -> nodes.Node:
    """A link to a place of a page; in a PDF, which has no such places, the text alone."""
    if app.builder.format != "html":
        return nodes.Text(text)
    uri = app.builder.get_relative_uri(here, there) + (f"#{anchor}" if anchor else "")
    return nodes.reference("", text, refuri=uri, internal=True)


def table(rows) -> nodes.Node:
    """A table with the columns of COLUMNS; each cell is a list of inline nodes."""
    group = nodes.tgroup(cols=len(COLUMNS))
    group += [nodes.colspec(colwidth=width) for width in COLUMNS.values()]
    head, body = nodes.thead(), nodes.tbody()
    head += row([nodes.Text(name)] for name in COLUMNS)
    body += [row(cells) for cells in rows]
    group += [head, body]
    return nodes.table("", group, classes=["book-claims"])


def row(cells) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", *cell)) for cell in cells))
