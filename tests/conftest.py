"""Settings that all tests share."""

from __future__ import annotations

from hypothesis import settings

# Machines differ in speed, so no example has a deadline; the laws are cheap to break and need few examples.
settings.register_profile("normfold", max_examples=40, deadline=None)
settings.load_profile("normfold")
