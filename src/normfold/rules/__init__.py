"""Every rewrite, one file each. `RULES` is the architecture on one screen.

A rule says how an affine map that travels through the graph meets one kind of operation: it is absorbed there,
or carried past it. The engine chains rules into a plan, from a norm to the linear operations that take it.
"""

from __future__ import annotations

from normfold.rules import (
    carry_affine_back_through_move,
    compose_affine_into_affine,
    compose_affine_into_next_affine,
    fold_affine_into_producer,
)
from normfold.rules.rule import BACKWARD, FORWARD, Carry, Direction, Rule, Step, Target

RULES: tuple[Rule, ...] = (
    fold_affine_into_producer.RULE,
    compose_affine_into_affine.RULE,
    compose_affine_into_next_affine.RULE,
    carry_affine_back_through_move.RULE,
)

__all__ = ["BACKWARD", "FORWARD", "RULES", "Carry", "Direction", "Rule", "Step", "Target"]
