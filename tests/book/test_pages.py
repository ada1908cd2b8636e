"""The pages keep the rules of chapters/contributing.md; each check is shown to find a fault."""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "chapters").rglob("*.md"))
LINES, COLUMNS = 15, 76
LISTED = 99  # columns of included code that a wide window shows

FENCE = re.compile(r"^\s*(`{3,}|~{3,})\s*(.*)$")
# What a fenced directive may hold that is prose, and not code.
PROSE = {"admonition", "dropdown", "exercise", "important", "margin", "note", "solution", "tip"}
PROSE |= {"attention", "caution", "danger", "hint", "seealso", "sidebar", "warning"}

UNITS = r"ms|[µμu]s|ns|(?:milli|micro|nano)seconds?|[KMGT]i?B ?(?:/ ?|per )s(?:econd)?"
UNITS += r"|[GT]FLOPS|[GT]FLOPs? ?(?:/ ?|per )s(?:econd)?"
MEASURED = re.compile(
    rf"\d[\s*\u00a0\u202f]*(?:(?:{UNITS})\b"
    r"|×(?!\s*(?:[\d(A-Z]|\w\b))"
    r"|(?:times|x) (?:as (?:fast|long|slow)|faster|less|more|slower)\b"
    r"|% (?:faster|less|more|of|slower)\b)"
)
ALLOWED = re.compile(r"\bpredict|\{cite|data sheet", re.IGNORECASE)
# A number alone, with its unit or without: that counts as prose where it stands in code or math.
NUMBER = re.compile(rf"[≈~<>±\s]*\d[\d.,\s]*(?:×|%|{UNITS})?\s*")


def cells(text: str) -> list[list[str]]:
    """The code of each cell, without its options."""
    found = re.findall(r"^```\{code-cell\}[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [[line for line in cell.splitlines() if not line.startswith(":")] for cell in found]


def prose(text: str) -> list[tuple[int, str]]:
    """Numbered lines outside header, code and the README's drawn part.

    Code and math within a line are cut out, but for numbers that stand in them alone.
    """
    kept, fences, skipped = [], [], re.match(r"---\n.*?\n---\n", text, re.DOTALL)
    header = skipped.group().count("\n") if skipped else 0
    drawn = False
    for number, line in enumerate(text.splitlines(), 1):
        if "results:begin" in line or "results:end" in line:
            drawn = "results:begin" in line
        fence = FENCE.match(line)
        if fence:
            mark, info = fence.groups()
            if fences and not info and mark.startswith(fences[-1][0]):
                fences.pop()
            elif not any(code for _, code in fences):
                name = re.match(r"\{([\w-]+)\}", info)
                fences.append((mark, not name or name.group(1) not in PROSE))
        elif number > header and not drawn and not any(code for _, code in fences):
            kept.append((number, without_code(mark_citations(line))))
    return kept


def without_code(line: str) -> str:
    """A line without its inline code and math; a number in them that stands alone is kept."""

    def inside(found) -> str:
        text = found.group(1) or found.group(2)
        text = re.sub(r"\\(?:text|mathrm|quad|[ ,;])|[{}~]", " ", text.replace("\\times", "×"))
        text = text.replace("\\%", "%").replace("\\mu", "µ")
        return text if NUMBER.fullmatch(text) else ""

    return re.sub(r"(?:\{math\})?`([^`]+)`|\$([^$]+)\$", inside, line)


def mark_citations(line: str) -> str:
    """Keep that a line cites, though the role's own text is cut out with the inline code."""
    return re.sub(r"\{cite(:\w+)?\}`[^`]+`", "{cite}", line)


def typed_numbers(text: str) -> list[str]:
    return [
        f"line {number}: {line.strip()}"
        for number, line in prose(text)
        if MEASURED.search(line) and not ALLOWED.search(line)
    ]


def too_large(text: str) -> list[str]:
    """Cells with too many lines, and lines with too many columns."""
    faults = []
    for cell in cells(text):
        body = "\n".join(cell).strip().splitlines()
        if len(body) > LINES:
            faults.append(f"{len(body)} lines: {body[0]}")
        faults += [f"{len(line)} columns: {line}" for line in body if len(line) > COLUMNS]
    return faults


def listings(page: Path) -> list[tuple[str, list[str]]]:
    """(file, lines) of what a page includes of a file, as it shows it."""
    found = []
    directive = r"^`{3,}\{literalinclude\} (\S+)\n((?:[ \t]*:.*\n)*)"
    for path, options in re.findall(directive, page.read_text(), re.MULTILINE):
        given = dict(re.findall(r":([\w-]+): *(.*)", options))
        text = (page.parent / path).read_text()
        if "start-after" in given:
            text = text.partition(given["start-after"].strip("\"'"))[2].partition("\n")[2]
        if "end-before" in given:
            text = text.partition(given["end-before"].strip("\"'"))[0]
        lines = text.splitlines()
        if "pyobject" in given:
            body = ast.parse(text).body
            for name in given["pyobject"].split("."):
                (node,) = (x for x in body if getattr(x, "name", None) == name)
                body = node.body
            lines = lines[node.lineno - 1 : node.end_lineno]
        if "lines" in given:
            lines = lines[int(given["lines"].rstrip("-")) - 1 :]
        if "dedent" in given:
            lines = textwrap.dedent("\n".join(lines)).splitlines()
        found.append((path, lines))
    return found


def too_wide(found: list[tuple[str, list[str]]]) -> list[tuple[str, str]]:
    return [(path, x) for path, lines in found for x in lines if len(x) > LISTED]


def toc_files(entry: dict | list) -> list[str]:
    """All files that a table of contents names."""
    if isinstance(entry, list):
        return [file for part in entry for file in toc_files(part)]
    names = [entry[key] for key in ("root", "file") if key in entry]
    parts = [entry[key] for key in ("parts", "chapters", "sections") if key in entry]
    return names + toc_files(parts)


def page_ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=page_ids)
def test_no_measured_number_is_typed(page):
    faults = typed_numbers(page.read_text())
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "line",
    [
        "It takes 0.72 ms.",
        "It takes 12 µs there.",
        "That is 3.35 TB/s.",
        "It is 2.5× faster.",
        "It is 250 × as fast.",
        "It is 3 times faster.",
        "It reaches 94 % of copy speed.",
        "It takes {math}`0.72` ms.",
        "It takes `0.72` ms.",
        "It takes `0.72 ms`.",
        r"It takes $0.72\,\text{ms}$.",
        r"It is $2.5\times$ faster.",
        "It takes **0.72** ms.",
        r"It takes {math}`0.72\ \mathrm{ms}`.",
        "It takes 0.72 milliseconds.",
        "It is 3x faster.",
        "It does 12 TFLOP / s.",
        "It moves 2.5 TB per second.",
        "It takes 5 ms, unpredicted.",
        ":::{note}\nIt takes 5 ms.\n:::",
        "```{note}\nIt takes 5 ms.\n```",
        "```python\nx = 1\n```\nIt takes 5 ms.",
    ],
)
def test_a_typed_number_is_found(line):
    assert typed_numbers(line)


@pytest.mark.parametrize(
    "line",
    [
        "We predict 0.7 ms.",
        "It took 5 ms {cite}`dao2022flashattention`.",
        "The data sheet says 3.35 TB/s.",
        "Tiles of 64 × 64 and 16×D elements.",
        "Write `sleep(5 ms)` and $t = 5 ms$.",
        r"Tiles of $64 \times 64$, {math}`N = 3` times more rows, `4` times, and `x` ms.",
        "```python\n# 5 ms\n```",
        "````md\n```{note}\nIt takes 5 ms.\n```\n````",
        "---\ntime: 5 ms\n---\n",
        "<!-- results:begin -->\n5 ms\n<!-- results:end -->",
        "In 2026 there were 8 heads and 100 users.",
    ],
)
def test_other_numbers_are_let_pass(line):
    assert not typed_numbers(line)


@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_cells_fit_the_page(page):
    faults = too_large(page.read_text())
    assert not faults, "\n".join(faults)


def test_large_cells_are_found():
    long = "```{code-cell} python\n:tags: [a]\n" + "x = 1\n" * 16 + "```\n"
    wide = "```{code-cell} python\nx = '" + "a" * 80 + "'\n```\n"
    assert len(too_large(long)) == 1 and len(too_large(wide)) == 1
    assert not too_large("```{code-cell} python\n:tags: [a]\n" + "x = 1\n" * 15 + "```\n")


@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_included_code_fits_a_wide_window(page):
    wide = [f"{path}: {x}" for path, x in too_wide(listings(page))]
    assert not wide, "\n".join(wide)


def test_wide_included_code_is_found(tmp_path):
    (tmp_path / "a.py").write_text(f"{'x' * 200}\n# [a:begin]\n    {'y' * 96}\n# [a:end]\n")
    page = tmp_path / "page.md"
    text = '```{literalinclude} a.py\n:start-after: "# [a:begin]"\n:end-before: "# [a:end]"\n'
    page.write_text(f"{text}```\n")
    assert [x.strip() for _, x in too_wide(listings(page))] == ["y" * 96]
    page.write_text(f"{text}:dedent:\n```\n")
    assert not too_wide(listings(page))


@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_pages_with_cells_can_be_run(page):
    text = page.read_text()
    if cells(text):
        header = yaml.safe_load(text.split("---\n")[1])
        assert header["kernelspec"]["name"] == "python3"
        assert header["jupytext"]["text_representation"]["format_name"] == "myst"
    for cell in cells(text):
        ast.parse("\n".join(cell))


@pytest.mark.parametrize("page", PAGES, ids=page_ids)
def test_included_regions_exist(page):
    """A mark that is missing would include the whole file, or nothing."""
    text = page.read_text()
    for block in re.findall(r"```\{literalinclude\} (.*?)```", text, re.DOTALL):
        file, *options = block.splitlines()
        included = page.parent / file.strip()
        if page.name == "contributing.md":
            continue  # shows how to write one
        assert included.is_file(), file
        for mark in re.findall(
            r":(?:start-after|end-before): *\"?(.*?)\"?$", "\n".join(options), re.M
        ):
            assert included.read_text().count(mark) == 1, f"{mark} in {file}"


def test_toc_and_pages_are_the_same():
    named = toc_files(yaml.safe_load((ROOT / "_toc.yml").read_text()))
    there = {str(page.relative_to(ROOT).with_suffix("")) for page in PAGES}
    assert sorted(named) == sorted(there)


def test_every_numbered_equation_is_referred_to():
    text = "".join(page.read_text() for page in PAGES)
    labels = re.findall(r"^:label: (eq-\S+)", text, re.MULTILINE)
    assert len(labels) == len(set(labels)) > 50
    assert not [label for label in labels if f"{{eq}}`{label}`" not in text]


def test_every_equation_that_stands_alone_has_a_number():
    for page in PAGES:
        alone = re.findall(r"^```\{math\}\n(?!:label: )(.*)", page.read_text(), re.MULTILINE)
        assert not alone, f"{page.name}: {alone}"


CHAPTERS = [page for page in PAGES if re.match(r"\d\d_", page.name)]
KEEPS = ("After it you can", "Before you start", "Allow ", "To remember", "ummary", "## Exercises")
KEEPS += ("## Further reading", "code-cell", "\nOpen")


@pytest.mark.parametrize("page", CHAPTERS, ids=page_ids)
def test_a_chapter_has_all_that_chapters_have(page):
    text = page.read_text()
    assert not [part for part in KEEPS if part not in text]
    exercises = re.findall(r"^```\{exercise-start\}.*\n:label: (\S+)", text, re.MULTILINE)
    solutions = re.findall(
        r"^```\{solution-start\} (\S+)\n.*\n:class: dropdown", text, re.MULTILINE
    )
    assert len(exercises) >= 5 and sorted(exercises) == sorted(solutions)
    checked = set(re.findall(r"^check\(\"(\w+)\"\)", text, re.MULTILINE))
    assert len(checked) >= 2
    for name in checked:  # with its solution, and both files shown
        assert f'check("{name}", solution=True)' in text
        assert f"puzzles/{name}.py" in text and f"puzzles/{name}_solution.py" in text
    assert text.count("{admonition} Prediction") >= 2


def test_chapters_are_found():
    assert len(CHAPTERS) >= 10
