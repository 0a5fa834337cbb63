"""What the extra ``torch`` brings."""

from __future__ import annotations

import importlib.util

from normfold.errors import EnvironmentUnavailableError


def needs(package: str) -> None:
    """Raise `EnvironmentUnavailableError` ``missing-package`` where ``package`` is not installed."""
    if importlib.util.find_spec(package) is None:
        hint = "pip install 'normfold[torch]'"
        raise EnvironmentUnavailableError("missing-package", f"The package {package} is not installed.", hint)
