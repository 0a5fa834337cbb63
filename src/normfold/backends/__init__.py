"""Thin backends: each lifts one framework's models to views and commits plans to them."""
