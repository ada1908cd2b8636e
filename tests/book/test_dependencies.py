"""Ranges, pins and the packages' own list agree, for every Python the book supports."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]


def read(name: str) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def pins(python: str) -> dict[str, str]:
    """The pinned version of each package under one Python; one pin for a package at most."""
    found: dict[str, str] = {}
    for pin in read("constraints.txt"):
        if pin.marker is None or pin.marker.evaluate({"python_version": python}):
            name = canonicalize_name(pin.name)
            assert name not in found, f"{name} is pinned twice for Python {python}"
            (specifier,) = pin.specifier
            assert specifier.operator == "=="
            found[name] = specifier.version
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_every_requirement_is_pinned_within_its_range(python):
    pinned = pins(python)
    for requirement in read("requirements.txt"):
        name = canonicalize_name(requirement.name)
        assert requirement.specifier.contains(pinned[name]), f"{requirement} but {pinned[name]}"


def test_torch_and_triton_of_a_host_stay():
    """Colab and GPU hosts: no upper bound, no exact version."""
    for requirement in read("requirements.txt"):
        if requirement.name in ("torch", "triton", "numpy", "pandas", "plotly", "ipykernel"):
            assert {s.operator for s in requirement.specifier} == {">="}


def test_the_packages_ask_for_the_same_ranges():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ranges = {str(requirement) for requirement in read("requirements.txt")}
    wanted = [*project["dependencies"], *project["optional-dependencies"]["bench"]]
    assert {str(Requirement(line)) for line in wanted} <= ranges
    assert {Requirement(line).name for line in project["dependencies"]} == {"torch", "triton"}


def test_every_folder_of_the_packages_is_a_package():
    for room in ("kernels", "bench"):
        for path in (ROOT / room).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), path.parent


def test_the_book_can_be_cited():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
