"""normfold: fold every norm that mathematics lets go, and prove it."""

from __future__ import annotations

__version__ = "0.1.0"
