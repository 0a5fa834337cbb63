"""The identities everything rests on, one file each; every rule states its own.

A law is pure algebra on float64 arrays: it derives new constants and is exact under the premises that
its docstring names. It knows no graph; rules decide where it may be used.
"""

from normfold.core.laws.law import Law

__all__ = ["Law"]
