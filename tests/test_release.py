"""`make release` refuses what is not ready, and sets the version everywhere."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = ("dbs_device/__init__.py", "CITATION.cff", "CHANGELOG.md")


@pytest.fixture
def release(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import release

    yield release
    sys.modules.pop("release", None)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a repository with the files that a release changes, and an unreleased version."""
    for name in FILES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    changelog = tmp_path / "CHANGELOG.md"
    changelog.write_text("# Changelog\n\n## 7.0.0 (unreleased)\n\nNew.\n\n## 6.0.0 (2026-01-01)\n\nOld.\n")
    git(tmp_path, "init", "--quiet", "--initial-branch=main")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "all")
    return tmp_path


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True)


def test_the_version_and_the_date_are_set_everywhere(release, clone: Path) -> None:
    release.check_tree(clone, "7.0.0")
    release.set_version(clone, "7.0.0", "2030-02-03")
    assert '\n__version__ = "7.0.0"\n' in (clone / "dbs_device/__init__.py").read_text()
    assert "\nversion: 7.0.0\n" in (clone / "CITATION.cff").read_text()
    changelog = (clone / "CHANGELOG.md").read_text()
    assert changelog == "# Changelog\n\n## 7.0.0 (2030-02-03)\n\nNew.\n\n## 6.0.0 (2026-01-01)\n\nOld.\n"


def test_a_changelog_without_an_open_section_changes_nothing(release, clone: Path) -> None:
    (clone / "CHANGELOG.md").write_text("# Changelog\n")
    before = [(clone / name).read_text() for name in FILES]
    with pytest.raises(release.ReleaseError, match=r"CHANGELOG\.md has 0 lines like .*, and must have one"):
        release.set_version(clone, "7.0.0", "2030-02-03")
    assert [(clone / name).read_text() for name in FILES] == before


@pytest.mark.parametrize("version", ["7", "7.0", "v7.0.0", "7.0.0-rc1", "7.0.0 "])
def test_a_version_of_another_form_is_refused(release, clone: Path, version: str) -> None:
    with pytest.raises(release.ReleaseError, match=r"a version is MAJOR\.MINOR\.PATCH"):
        release.check_tree(clone, version)


def test_uncommitted_changes_are_refused(release, clone: Path) -> None:
    (clone / "CHANGELOG.md").write_text("another")
    with pytest.raises(release.ReleaseError, match="uncommitted changes"):
        release.check_tree(clone, "7.0.0")


def test_another_branch_is_refused(release, clone: Path) -> None:
    git(clone, "checkout", "--quiet", "-b", "feature")
    with pytest.raises(release.ReleaseError, match="from main, not feature"):
        release.check_tree(clone, "7.0.0")


def test_a_version_that_is_tagged_is_refused(release, clone: Path) -> None:
    git(clone, "tag", "v7.0.0")
    with pytest.raises(release.ReleaseError, match=r"v7\.0\.0 is tagged already"):
        release.check_tree(clone, "7.0.0")


def test_the_package_and_the_citation_have_the_same_version() -> None:
    import dbs_device

    assert f"\nversion: {dbs_device.__version__}\n" in (ROOT / "CITATION.cff").read_text()
