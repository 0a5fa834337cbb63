"""What ``package.module:name`` on the command line names."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from normfold.errors import UsageError


def named(package: str, path: str, code: str) -> Any:
    """The attribute ``path`` of the Python module ``package``; the current folder can be imported from.

    Raises:
        UsageError: ``code``: there is no such module or attribute, or the import fails.
    """
    return _attribute(_imported(package, code), package, path, code)


def words(error: BaseException) -> str:
    """The type and the message of ``error`` on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _imported(package: str, code: str) -> Any:
    folder = os.getcwd()  # noqa: PTH109 - an entry of sys.path is text
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(package)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{package}.".startswith(f"{error.name}."):
            hint = "Name it as for 'python -m', from the folder that holds it."
            raise UsageError(code, f"There is no Python module {error.name}.", hint) from error
        raise UsageError(code, f"{package} cannot be imported: {words(error)}") from error


def _attribute(module: Any, package: str, path: str, code: str) -> Any:
    found = module
    for name in path.split("."):
        if not hasattr(found, name):
            raise UsageError(code, f"{package}:{path}: {getattr(found, '__name__', found)} has no {name!r}.")
        found = getattr(found, name)
    return found
