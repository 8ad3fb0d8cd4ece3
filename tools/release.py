"""Do all of a release that can be done before a push: `make release VERSION=0.2.0`.

Sets the version where it is written, closes the section of the changelog, runs everything that has to pass, builds and
tests the wheels, commits and tags. If anything fails, the tree is left unchanged.
"""

from __future__ import annotations

import argparse
import datetime
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE, CITATION, CHANGELOG = "dbs_device/__init__.py", "CITATION.cff", "CHANGELOG.md"


class ReleaseError(Exception):
    """The tree is not ready for a release."""


def main() -> None:
    """Make the release in this clone."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("version", help="as 0.2.0")
    version = parser.parse_args().version
    try:
        check_tree(ROOT, version)
        date = datetime.datetime.now(datetime.UTC).date().isoformat()
        set_version(ROOT, version, date)
    except ReleaseError as error:
        sys.exit(f"dbs-device: {error}")
    try:
        subprocess.run(["bash", ".ci/run"], cwd=ROOT, check=True)
        subprocess.run([sys.executable, "tools/wheels.py"], cwd=ROOT, check=True)
    except (subprocess.CalledProcessError, KeyboardInterrupt):
        git(ROOT, "checkout", "--", PACKAGE, CITATION, CHANGELOG)
        sys.exit("dbs-device: no release was made, and the tree is unchanged")
    git(ROOT, "commit", "--all", "--message", f"Release {version}")
    git(ROOT, "tag", "--annotate", f"v{version}", "--message", f"dbs-device {version}")
    print(f"dbs-device: v{version} is tagged; publish it by `git push origin main v{version}`")


def check_tree(root: Path, version: str) -> None:
    """Raise `ReleaseError` unless a clone can be released as a version."""
    if re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", version) is None:
        raise ReleaseError(f"a version is MAJOR.MINOR.PATCH, as 0.2.0 or 0.2.0rc1, not {version!r}")
    if git(root, "status", "--porcelain"):
        raise ReleaseError("there are uncommitted changes")
    branch = git(root, "branch", "--show-current")
    if branch != "main":
        raise ReleaseError(f"releases are made from main, not {branch or 'a detached HEAD'}")
    if git(root, "tag", "--list", f"v{version}"):
        raise ReleaseError(f"v{version} is tagged already")


def set_version(root: Path, version: str, date: str) -> None:
    """Write the version and the date of the release; `ReleaseError` changes nothing."""
    texts = {name: (root / name).read_text() for name in (PACKAGE, CITATION, CHANGELOG)}
    for name, pattern, replacement in (
        (PACKAGE, r'^__version__ = ".*"$', f'__version__ = "{version}"'),
        (CITATION, r"^version: .*$", f"version: {version}"),
        (CHANGELOG, r"^## .* \(unreleased\)$", f"## {version} ({date})"),
    ):
        texts[name], count = re.subn(pattern, replacement, texts[name], flags=re.MULTILINE)
        if count != 1:
            raise ReleaseError(f"{name} has {count} lines like {pattern!r}, and must have one")
    for name, text in texts.items():
        (root / name).write_text(text)


def git(root: Path, *arguments: str) -> str:
    """Run git in a clone and return what it printed."""
    return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
