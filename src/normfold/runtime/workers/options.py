"""Session options as a worker needs them, beside those that a session's settings say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from normfold.runtime.sessions import DATA_FOLDER, QUIET, session_options
from normfold.runtime.side_files import open_regular
from normfold.runtime.workers.protocol import RefusedError


def worker_options(session: Mapping[str, Any], data_folder: str, custom_ops: Sequence[str]) -> Any:
    """Quiet options that find external data in ``data_folder`` and operators in the libraries ``custom_ops``.

    Raises:
        RefusedError: a library cannot be loaded.
    """
    options = session_options(session)
    options.log_severity_level = QUIET
    options.add_session_config_entry(DATA_FOLDER, data_folder)
    for library in custom_ops:
        try:
            open_regular(library).close()  # loading a named pipe would wait for its other end for ever
            options.register_custom_ops_library(library)
        except Exception as error:
            raise RefusedError("custom-ops", f"{library}: {error}") from error
    return options
