"""Makes the targets node, browser and arm64 run, by the commands that `normfold env` prints.

What needs packages of the system is left out, and said.
"""

from __future__ import annotations

import subprocess
import sys

from normfold.runtime.targets import find


def main() -> int:
    """Run the commands, one after the other."""
    for name in ("node", "browser", "arm64"):
        target = find(name)
        if "apt-get" in target.install and target.missing:
            print(f"left out: {target.missing}; {target.install}")
        elif target.missing:
            subprocess.run(["sh", "-ec", target.install], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
