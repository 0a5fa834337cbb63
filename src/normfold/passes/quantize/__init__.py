"""Quantisation: recipes that make models of less width from a folded one, and what they hand back."""
