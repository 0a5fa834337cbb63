"""Passes: each rewrites a fresh copy of a model, and says what it decided. Whether that holds is proven above."""
