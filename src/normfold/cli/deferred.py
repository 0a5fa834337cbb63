"""Imports put off until they are needed.

onnx_ir imports sympy, which takes as long as everything else together, and uses it for arithmetic on named
dimensions only, which most runs of the command never come to.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any


class _Deferred(ModuleType):
    """Stands for a module until the first look at one of its attributes."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        del sys.modules[self.__name__]
        self.__dict__.update(importlib.import_module(self.__name__).__dict__)
        return self.__dict__[name]


def defer(name: str) -> None:
    """Import ``name`` when something of it is first used; do nothing if it is there already or not installed."""
    if name not in sys.modules and importlib.util.find_spec(name) is not None:
        sys.modules[name] = _Deferred(name)
