"""How long a page takes to read, counted from its words, beside its line of the road map."""

from __future__ import annotations

from docutils import nodes
from sphinx import addnodes
from sphinx.util.docutils import SphinxDirective

WORDS_A_MINUTE = 180  # a textbook, with its code


class roadmap(nodes.General, nodes.Element):
    """A list whose entries begin with a link to a page."""


class RoadmapDirective(SphinxDirective):
    """`{roadmap}` around such a list."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        shown = roadmap()
        self.state.nested_parse(self.content, self.content_offset, shown)
        self.env.metadata[self.env.docname]["roadmap"] = True
        return [shown]


def connect(app) -> None:
    app.add_node(roadmap)
    app.add_directive("roadmap", RoadmapDirective)
    app.connect("env-purge-doc", lambda app, env, name: words_of(env).pop(name, None))
    app.connect("env-merge-info", lambda app, env, names, other: merge(env, names, other))
    app.connect("doctree-read", count)
    app.connect("env-updated", pages_to_write)
    app.connect("doctree-resolved", fill)
    app.connect("env-before-read-docs", lambda app, env, names: words_of(env))


def words_of(env) -> dict[str, int]:
    """Page → its words; kept with the environment from build to build."""
    if not hasattr(env, "book_words"):
        env.book_words = {}
    return env.book_words


def merge(env, names, other) -> None:
    words_of(env).update({n: c for n, c in words_of(other).items() if n in names})


def count(app, doctree) -> None:
    words_of(app.env)[app.env.docname] = words(doctree)


def words(node: nodes.Node) -> int:
    """The words of text and code, without what cells put out."""
    if isinstance(node, nodes.Text):
        return len(node.astext().split())
    left_out = (nodes.raw, nodes.comment, addnodes.index)
    if isinstance(node, left_out) or "cell_output" in node.get("classes", []):
        return 0
    return sum(words(child) for child in node.children)


def pages_to_write(app, env) -> list[str]:
    """The pages with a road map, since the length of any other may have changed."""
    return [name for name, facts in env.metadata.items() if facts.get("roadmap")]


def minutes(count: int) -> int:
    """Rounded to five minutes, and at least five."""
    return max(5, 5 * round(count / WORDS_A_MINUTE / 5))


def fill(app, doctree, docname: str) -> None:
    """Write the time behind the first link of each entry."""
    for place in list(doctree.findall(roadmap)):
        for entry in place.findall(nodes.list_item):
            link = next(entry.findall(nodes.reference), None)
            found = link and page_of(app, docname, link)
            if found:
                time = f" ({minutes(words_of(app.env)[found])} min)"
                link.parent.insert(link.parent.index(link) + 1, nodes.Text(time))
        place.replace_self(place.children)


def page_of(app, docname: str, link: nodes.reference) -> str | None:
    """The page that a link leads to, if its words are known."""
    wanted = link.get("refuri", "").split("#")[0]
    for name in words_of(app.env):
        if app.builder.get_relative_uri(docname, name) == wanted:
            return name
    return None
