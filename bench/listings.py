"""The book's own code as a subject: its length, its marked regions, and what a step changed.

A region is what stands between `# [name:begin]` and `# [name:end]`, as the chapters include it.
"""

import ast
import difflib
import html
import inspect
import io
import tokenize
from dataclasses import dataclass
from types import ModuleType

from .errors import BenchError


def region(module: ModuleType, name: str) -> str:
    """The text of a marked region of a module's file; BenchError if it is not there once."""
    text = inspect.getsource(module)
    begin, end = f"# [{name}:begin]\n", f"# [{name}:end]"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise BenchError(f"{module.__name__} has no region {name!r}, or more than one.")
    return text.split(begin)[1].split(end)[0].strip() + "\n"


def code_lines(text: str) -> int:
    """Lines of Python with code on them: no blank lines, no comments, no docstrings."""
    skip = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skip and token.type != tokenize.ENDMARKER:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # a docstring
            lines.difference_update(range(node.lineno, node.end_lineno + 1))
    return len(lines)


APART = "..."  # stands for the lines between two changes
ADDED, REMOVED = "rgba(46, 160, 67, 0.25)", "rgba(229, 83, 75, 0.25)"


@dataclass(frozen=True)
class Diff:
    """What changed between two texts, as a listing with + and - before the lines."""

    text: str

    def _repr_html_(self) -> str:
        lines = self.text.splitlines()
        code = [line[1:] for line in lines if line[1:].strip() not in ("", APART)]
        margin = min((len(line) - len(line.lstrip()) for line in code), default=0)
        shown = "".join(self._line(line, margin) for line in lines)
        return f'<div class="highlight"><pre tabindex="0">{shown}</pre></div>'

    def _line(self, line: str, margin: int) -> str:
        """A line less the margin that all have; on a narrow page it goes on below, indented."""
        sign, rest = line[:1], line[1:]
        if rest != APART:
            rest = rest[margin:]
        hang = len(rest) - len(rest.lstrip()) + 3
        look = f"display: block; white-space: pre-wrap; padding-left: {hang}ch; "
        look += f"text-indent: -{hang}ch"
        colour = {"+": ADDED, "-": REMOVED}.get(sign)
        look += f"; background-color: {colour}" if colour else ""
        return f'<span style="{look}">{html.escape(sign + rest)}\n</span>'

    def __repr__(self) -> str:
        return self.text


def diff(before: ModuleType, after: ModuleType, name: str, context: int = 1) -> Diff:
    """How the region `name` of one module became that of another."""
    return between(region(before, name), region(after, name), context)


def between(before: str, after: str, context: int = 1) -> Diff:
    """How one text became another."""
    old, new = (text.splitlines(keepends=True) for text in (before, after))
    lines = list(difflib.unified_diff(old, new, n=context))[3:]  # no names, no first place
    return Diff("".join(f" {APART}\n" if line.startswith("@@") else line for line in lines))
