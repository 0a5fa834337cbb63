"""Settings that all tests share."""

from __future__ import annotations

from importlib import import_module

from hypothesis import settings

# Whichever test imports ONNX Runtime first: its telemetry is off from here on.
import_module("normfold.runtime")

# Machines differ in speed, so no example has a deadline; the laws are cheap to break and need few examples.
settings.register_profile("normfold", max_examples=40, deadline=None)
settings.load_profile("normfold")
