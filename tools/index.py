"""Make a package index of what `make wheels` has built: `make index`, then `pip install --index-url`.

The index is a folder that any static web server can offer, or that pip reads as a `file:` URL.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Copy the distributions, and write the pages that list them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="where the sdist and the wheels are")
    parser.add_argument("--outdir", type=Path, default=ROOT / "dist" / "index", help="where the index goes")
    arguments = parser.parse_args()
    files = sorted([*arguments.dist.glob("*.whl"), *arguments.dist.glob("*.tar.gz")])
    if not files:
        sys.exit(f"{arguments.dist} has no wheels: run `make wheels` first")
    write_index(files, arguments.outdir)
    url = (arguments.outdir / "simple").as_uri()
    print(f"dbs-device: {len(files)} files; pip install --extra-index-url {url} dbs-device")


def write_index(files: list[Path], folder: Path) -> None:
    """Write an index with these distributions."""
    shutil.rmtree(folder, ignore_errors=True)
    packages = folder / "packages"
    packages.mkdir(parents=True)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as listed:
        for file in files:
            shutil.copy(file, packages)
            entry = {
                "filename": file.name,
                "hash": f"sha256={hashlib.sha256(file.read_bytes()).hexdigest()}",
                "requires_python": ">=3.11",
            }
            listed.write(json.dumps(entry) + "\n")
        listed.flush()
        options = ["--package-list-json", listed.name, "--output-dir", str(folder), "--packages-url", "../../packages"]
        subprocess.run([sys.executable, "-m", "dumb_pypi.main", *options, "--no-generate-timestamp"], check=True)


if __name__ == "__main__":
    main()
