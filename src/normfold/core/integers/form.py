"""The forms of a network that integer kernels take, and are quick in."""

from __future__ import annotations

from normfold.core.integers.depthwise import with_depthwise
from normfold.core.integers.grouped import with_quick_groups
from normfold.core.integers.padded import with_padding
from normfold.core.integers.phases import with_phases
from normfold.core.integers.simplify import simplified
from normfold.core.integers.steps import Network


def integer_form(network: Network) -> Network:
    """``network`` rewritten to what computes the same and has quick integer kernels on the CPU."""
    return with_padding(with_quick_groups(portable_form(network)))


def portable_form(network: Network) -> Network:
    """``network`` rewritten to what computes the same and has integer kernels anywhere."""
    return with_phases(with_depthwise(simplified(network)))
