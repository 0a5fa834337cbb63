"""Passes run and proven."""
