"""Quantising a model: folded, made narrower by a recipe, proven, measured, and handed over only if that paid."""
