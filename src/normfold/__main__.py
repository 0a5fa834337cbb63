"""``python -m normfold``: the same command as ``normfold``."""

from __future__ import annotations

from normfold.cli import main

if __name__ == "__main__":
    main()
