"""Where the book's source lives, so that a fork's pages lead to the fork."""

from __future__ import annotations

import os
import re
import subprocess

HOSTS = r"github\.com|gitlab\.com|bitbucket\.org"


def connect(app) -> None:
    app.connect("config-inited", add_buttons)


def add_buttons(app, config) -> None:
    """Link source, edit and issue buttons to the repository; without one there are no buttons."""
    url = os.environ.get("BOOK_REPOSITORY_URL") or git(app.srcdir, "remote", "get-url", "origin")
    url = web_address(url)
    if url is None:
        return
    branch = os.environ.get("BOOK_REPOSITORY_BRANCH", "main")
    config.html_theme_options.update(
        repository_url=url,
        repository_branch=branch,
        use_repository_button=True,
        use_source_button=True,
        use_issues_button=True,
    )


def git(root, *arguments: str) -> str:
    try:
        run = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return run.stdout.strip()


def web_address(remote: str) -> str | None:
    """The web page of a git remote on a host whose pages the theme knows, without credentials."""
    form = rf"(?:https://(?:[^/@]*@)?|ssh://git@|git@)({HOSTS})[:/](.+?)(?:\.git)?/?"
    match = re.fullmatch(form, remote)
    return "https://{}/{}".format(*match.groups()) if match else None
