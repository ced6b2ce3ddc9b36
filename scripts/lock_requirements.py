#!/usr/bin/env python3
"""Writes requirements/constraints.txt: every package that the pinned ones pull in, at one version each.

Run it after a change of a pin, with one interpreter of each supported Python, each with a recent pip (23.0 searches
for very long):

    scripts/lock_requirements.py python3.10 python3.11 python3.12 python3.13
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements"
HEADER = """\
# Every package that the requirements pull in. Made by scripts/lock_requirements.py; do not edit.
"""


def resolve(python: str) -> tuple[str, dict[str, str]]:
    """The version of this interpreter, as "3.11", and the versions by name that pip would install for it."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [python, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", report]
        for file in ("runtime.txt", "ros.txt", "test.txt"):
            command += ["-r", REQUIREMENTS / file]
        subprocess.run(command, check=True)
        result = json.loads(report.read_text())
    packages = (item["metadata"] for item in result["install"])
    versions = {package["name"].lower().replace("_", "-"): package["version"] for package in packages}
    return result["environment"]["python_version"], versions


def lines(resolved: dict[str, dict[str, str]]) -> list[str]:
    """One line per package if all Pythons agree, else one with a marker for each Python."""
    result = []
    for name in sorted(set().union(*resolved.values())):
        versions = {python: packages.get(name) for python, packages in resolved.items()}
        if len(set(versions.values())) == 1:
            result.append(f"{name}=={next(iter(versions.values()))}")
        else:
            result += [f'{name}=={v}; python_version == "{python}"' for python, v in versions.items() if v]
    return result


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    resolved = dict(resolve(python) for python in sys.argv[1:])
    (REQUIREMENTS / "constraints.txt").write_text(HEADER + "\n".join(lines(resolved)) + "\n")
