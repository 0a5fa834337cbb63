"""Every rewrite, one file each. `RULES` is the architecture on one screen.

A carry says how a map that travels through the graph meets one kind of operation: it is absorbed there, or goes on
beyond it. The engine chains rules into a plan, from a norm to the linear operations that take it.
"""

from __future__ import annotations

from typing import Any

from normfold.core.algebra import Map
from normfold.core.laws import Law
from normfold.core.rules import (
    bake_normalised_weight,
    carry_affine_through_clip,
    carry_affine_through_concat,
    carry_affine_through_move,
    carry_affine_through_pad,
    carry_affine_through_pool,
    carry_affine_through_sum,
    carry_centring_through_affine,
    carry_centring_through_move,
    carry_centring_through_pool,
    carry_centring_through_sum,
    carry_offset_through_move,
    carry_offset_through_pool,
    carry_scale_through_activation,
    carry_scale_through_matrix_product,
    carry_scale_through_product,
    carry_shuffle_through_affine,
    carry_shuffle_through_move,
    carry_shuffle_through_pad,
    carry_shuffle_through_pool,
    compose_affine_into_affine,
    compose_affine_into_next_affine,
    compose_affine_into_tail,
    drop_bias_before_norm,
    drop_identity_map,
    drop_identity_move,
    emit_norm,
    fold_affine_into_block_consumer,
    fold_affine_into_block_producer,
    fold_affine_into_consumer,
    fold_affine_into_embedding,
    fold_affine_into_padded_consumer,
    fold_affine_into_producer,
    fold_affine_into_quantized_producer,
    fold_affine_into_recurrent,
    fold_centring_into_embedding,
    fold_centring_into_producer,
    fold_offset_into_norm,
    fold_scale_into_quantized_consumer,
    fold_shift_into_producer,
    fold_shuffle_into_consumer,
    merge_linear_sequence,
    merge_parallel_branches,
    move_norm_past_pool,
    move_pool_before_convolution,
)
from normfold.core.rules.rule import BACKWARD, FORWARD, Carry, Direction, Rewrite, Rule, Step, Target
from normfold.core.views import View

CARRIES: tuple[Rule[Any, Any], ...] = (
    # ends of a route
    fold_affine_into_producer.RULE,
    fold_affine_into_consumer.RULE,
    fold_affine_into_padded_consumer.RULE,
    fold_affine_into_embedding.RULE,
    fold_affine_into_recurrent.RULE,
    fold_affine_into_quantized_producer.RULE,
    fold_scale_into_quantized_consumer.RULE,
    fold_affine_into_block_producer.RULE,
    fold_affine_into_block_consumer.RULE,
    compose_affine_into_affine.RULE,
    compose_affine_into_next_affine.RULE,
    compose_affine_into_tail.RULE,
    # on the way
    carry_affine_through_move.RULE,
    carry_affine_through_pool.RULE,
    carry_affine_through_pad.RULE,
    carry_affine_through_concat.RULE,
    carry_affine_through_sum.RULE,
    carry_affine_through_clip.RULE,
    carry_scale_through_activation.RULE,
    carry_scale_through_product.RULE,
    carry_scale_through_matrix_product.RULE,
    # of shuffles
    fold_shuffle_into_consumer.RULE,
    carry_shuffle_through_affine.RULE,
    carry_shuffle_through_move.RULE,
    carry_shuffle_through_pad.RULE,
    carry_shuffle_through_pool.RULE,
    # of centring
    fold_centring_into_producer.RULE,
    fold_centring_into_embedding.RULE,
    carry_centring_through_affine.RULE,
    carry_centring_through_move.RULE,
    carry_centring_through_pool.RULE,
    carry_centring_through_sum.RULE,
    # of what it leaves other readers to cope with
    fold_offset_into_norm.RULE,
    carry_offset_through_move.RULE,
    carry_offset_through_pool.RULE,
)
IDENTITIES: tuple[Rewrite[Any, Any], ...] = (drop_identity_map.RULE, drop_identity_move.RULE)
"""What changes nothing goes first: a bias of zeros would otherwise take a shift that is better left where it is."""
REWRITES: tuple[Rewrite[Any, Any], ...] = (
    emit_norm.RULE,
    drop_bias_before_norm.RULE,
    bake_normalised_weight.RULE,
    *IDENTITIES,
    fold_shift_into_producer.RULE,
    merge_parallel_branches.RULE,
    merge_linear_sequence.RULE,
)
MOVES: tuple[Rewrite[Any, Any], ...] = (move_norm_past_pool.RULE,)
"""For norms that stay, once nothing else is left to do."""
POOLINGS: tuple[Rewrite[Any, Any], ...] = (move_pool_before_convolution.RULE,)
"""For the convolutions that are left then, where the cost table has it."""
RULES: tuple[Rule[Any, Any] | Rewrite[Any, Any], ...] = (*CARRIES, *REWRITES, *MOVES, *POOLINGS)
LAWS: tuple[Law, ...] = tuple(dict.fromkeys(rule.law for rule in RULES))
"""Every identity that a rule rests on."""


def carries(travelling: Map, view: View, direction: Direction) -> list[Rule[Any, Any]]:
    """The rules for a kind of map that arrives at a kind of view from one side, ends of a route first."""
    return [
        rule
        for rule in CARRIES
        if isinstance(travelling, rule.map) and isinstance(view, rule.view) and direction in rule.directions
    ]


__all__ = [
    "BACKWARD",
    "CARRIES",
    "FORWARD",
    "IDENTITIES",
    "LAWS",
    "MOVES",
    "POOLINGS",
    "REWRITES",
    "RULES",
    "Carry",
    "Direction",
    "Rewrite",
    "Rule",
    "Step",
    "Target",
    "carries",
]
