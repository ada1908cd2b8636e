"""Where the book's source lives, so that a fork's pages and notebooks lead to the fork.

This is the only place that knows. The variables override what git says:

- `BOOK_REPOSITORY_URL`, else the remote `origin`: the repository;
- `BOOK_REPOSITORY_BRANCH`, else `main`: the branch that pages are edited on;
- `BOOK_SITE_BRANCH`, else `gh-pages`: the branch that site and notebooks are published on;
- `BOOK_SITE_URL`, else the address that GitHub Pages gives the repository: the website;
- `BOOK_COMMIT`, else the commit checked out: what a notebook fetches.

Without a repository nothing points to one.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

HOSTS = r"github\.com|gitlab\.com|bitbucket\.org"
ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Place:
    """Addresses of the book; None where it has none."""

    url: str | None
    branch: str
    site: str | None  # ends in a slash
    site_branch: str
    commit: str | None


def connect(app) -> None:
    app.connect("config-inited", add_buttons)


def add_buttons(app, config) -> None:
    """Link source, edit and issue buttons to the repository; without one there are no buttons."""
    place = find(app.srcdir)
    if place.url is None:
        return
    config.html_theme_options.update(
        repository_url=place.url,
        repository_branch=place.branch,
        use_repository_button=True,
        use_source_button=True,
        use_issues_button=True,
    )


def find(root=ROOT) -> Place:
    """Where the book in the folder `root` lives."""
    said = os.environ.get
    url = web_address(said("BOOK_REPOSITORY_URL") or git(root, "remote", "get-url", "origin"))
    site = said("BOOK_SITE_URL") or (url and pages_address(url))
    return Place(
        url=url,
        branch=said("BOOK_REPOSITORY_BRANCH") or "main",
        site=f"{site.rstrip('/')}/" if site else None,
        site_branch=said("BOOK_SITE_BRANCH") or "gh-pages",
        # The folder may lie in a repository that is not the book's.
        commit=said("BOOK_COMMIT")
        or (git(root, "rev-parse", "HEAD") if Path(root, ".git").exists() else None)
        or None,
    )


def git(root, *arguments: str) -> str:
    """What git answers; nothing where it has no answer, or is not installed."""
    try:
        run = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return run.stdout.strip() if run.returncode == 0 else ""


def web_address(remote: str) -> str | None:
    """The web page of a git remote on a host whose pages the theme knows, without credentials."""
    form = rf"(?:https://(?:[^/@]*@)?|ssh://git@|git@)({HOSTS})[:/](.+?)(?:\.git)?/?"
    match = re.fullmatch(form, remote)
    return "https://{}/{}".format(*match.groups()) if match else None


def pages_address(url: str) -> str | None:
    """Where GitHub Pages publishes a repository; None for other hosts."""
    match = re.fullmatch(r"https://github\.com/([^/]+)/([^/]+)", url)
    if match is None:
        return None
    owner, name = match.groups()
    site = f"https://{owner.lower()}.github.io/"
    return site if name.lower() == f"{owner.lower()}.github.io" else f"{site}{name}/"
