"""Compare each changed ONNX file with the one it replaces: a gate for pull requests and commits.

python verify_changed.py [--since REF] [--allow-slower] FILE...

Each file is verified against the one of the same path at REF (by default HEAD), and then timed beside it. A new file
has nothing to be compared with. The exit is 1 where one computes something else or is slower.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path


def before(ref: str, file: Path, folder: Path) -> Path | None:
    """The file as it was at ``ref``; None where it was not there."""
    shown = subprocess.run(["git", "show", f"{ref}:./{file}"], check=False, capture_output=True)
    if shown.returncode:
        return None
    path = folder / file.name
    path.write_bytes(shown.stdout)
    return path


def commands(old: Path, new: Path, *, timed: bool) -> list[list[str]]:
    """What is asked of normfold about two files."""
    asked = [["verify", str(old), str(new)]]
    return [*asked, ["compare", str(old), str(new)]] if timed else asked


def passes(command: list[str]) -> bool:
    """Whether normfold finds nothing amiss."""
    print("normfold", *command, flush=True)
    return subprocess.run([sys.executable, "-m", "normfold", *command], check=False).returncode == 0


def main() -> int:
    """1 where a file is amiss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--since", default="HEAD", metavar="REF", help="commit to compare with (default: %(default)s)")
    parser.add_argument("--allow-slower", action="store_true", help="verify only, time nothing")
    parser.add_argument("files", nargs="+", type=Path)
    options = parser.parse_args()
    fine = True
    with tempfile.TemporaryDirectory() as folder:
        for file in options.files:
            old = before(options.since, file, Path(folder))
            if old is None:
                print(f"{file} is new")
                continue
            fine &= all(map(passes, commands(old, file, timed=not options.allow_slower)))
    return int(not fine)


if __name__ == "__main__":
    sys.exit(main())
