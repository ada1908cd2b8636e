"""The book's own code as a subject: its length, its marked regions, and what a step changed.

A region is what stands between `# [name:begin]` and `# [name:end]`, as the chapters include it.
"""

import ast
import difflib
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
    return text.split(begin)[1].split(end)[0].strip("\n") + "\n"


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


@dataclass(frozen=True)
class Diff:
    """What changed between two texts, as a listing with + and - before the lines."""

    text: str

    def _repr_markdown_(self) -> str:
        return f"```diff\n{self.text}```"

    def __repr__(self) -> str:
        return self.text


def diff(before: ModuleType, after: ModuleType, name: str, context: int = 1) -> Diff:
    """How the region `name` of one module became that of another."""
    old, new = (region(m, name).splitlines(keepends=True) for m in (before, after))
    lines = list(difflib.unified_diff(old, new, n=context))[2:]
    return Diff("".join("...\n" if line.startswith("@@") else line for line in lines))
