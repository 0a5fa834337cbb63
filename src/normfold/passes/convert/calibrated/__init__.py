"""Conversions that are fitted: numerics in NumPy, whatever the backend, from moments gathered in one pass."""
