"""The driver that turns rules into proven plans, and the verification of what comes out."""

from normfold.engine.driver import Folding, fold, inspect

__all__ = ["Folding", "fold", "inspect"]
