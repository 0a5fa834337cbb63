"""Imports put off until they are needed.

onnx_ir imports sympy, which takes as long as everything else together, and uses it for arithmetic on named
dimensions only, which most runs of the command never come to.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


class _Deferred(ModuleType):
    """Stands for a module that is imported when one of its attributes is used.

    While other modules are being imported (``waiting``), an attribute is a function that passes its call on: what
    they put into their tables works later, and nothing is imported for it.
    """

    waiting = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._passed_on(name) if self.waiting else getattr(self._load(), name)

    def _passed_on(self, name: str) -> Callable[..., Any]:
        def later(*arguments: Any, **options: Any) -> Any:
            return getattr(self._load(), name)(*arguments, **options)

        return later

    def _load(self) -> ModuleType:
        if sys.modules[self.__name__] is self:
            del sys.modules[self.__name__]
            self.__dict__.update(importlib.import_module(self.__name__).__dict__)
        return sys.modules[self.__name__]


@contextmanager
def deferring(name: str) -> Iterator[None]:
    """While this lasts, an import of ``name`` costs nothing; afterwards its first use does.

    Nothing is changed where ``name`` is there already or not installed.
    """
    if name in sys.modules or importlib.util.find_spec(name) is None:
        yield
        return
    module = sys.modules[name] = _Deferred(name)
    try:
        yield
    finally:
        module.waiting = False


class Deferring(MetaPathFinder):
    """Defers what ``importer`` imports as ``name``, whoever imports ``importer``; to be put on ``sys.meta_path``."""

    def __init__(self, importer: str, name: str) -> None:
        self._importer, self._name = importer, name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of the importer, with a loader that defers; of nothing else."""
        spec = PathFinder.find_spec(fullname, path, target) if fullname == self._importer else None
        if spec is not None and spec.loader is not None:
            spec.loader = _DeferringLoader(spec.loader, self._name)
        return spec


class _DeferringLoader(Loader):
    """Runs a module as its own ``loader`` does, with the import of ``name`` put off."""

    def __init__(self, loader: Loader, name: str) -> None:
        self._loader, self._name = loader, name

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # From here on the module is as if nothing had stood between.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        with deferring(self._name):
            self._loader.exec_module(module)
