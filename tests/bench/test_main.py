"""`python -m bench` where its packages are missing: one sentence that says what to type."""

import re
import subprocess
import sys

import pytest

from bench.hardware import ROOT

# `python -m bench COMMAND` where these packages cannot be imported
PROGRAM = """
import runpy, sys
command, *packages = sys.argv[1:]
sys.modules |= dict.fromkeys(packages)
sys.argv = ["bench", command]
runpy.run_module("bench", run_name="__main__", alter_sys=True)
"""
MAIN = (ROOT / "bench/__main__.py").read_text()
NEEDED = re.findall(r'"(\w+)"', re.search(r"^NEEDED = \((.*)\)$", MAIN, re.MULTILINE).group(1))


def without(command, *packages):
    command = [sys.executable, "-c", PROGRAM, command, *packages]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("command, packages", [("--help", NEEDED), ("show", ["numpy"])])
def test_a_missing_package_is_told_in_one_sentence(command, packages):
    run = without(command, *packages)
    assert run.returncode == 2 and run.stdout == ""
    (line,) = run.stderr.splitlines()
    assert re.search(rf"needs ({'|'.join(packages)}), which is not installed", line)
    assert "pip install -e '.[bench]'" in line


def test_what_is_no_package_of_the_bench_keeps_its_traceback():
    run = without("--help", "bench.cli")
    assert run.returncode == 1 and "Traceback" in run.stderr


def test_the_packages_are_those_of_the_extra():
    listed = re.search(r"^bench = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S)
    assert NEEDED == re.findall(r'"(\w+)[^"]*"', listed.group(1))
