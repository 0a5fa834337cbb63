"""What a law is."""

from __future__ import annotations

from dataclasses import dataclass

from normfold.records import Premise


@dataclass(frozen=True, slots=True)
class Law:
    """An identity with the premises under which it is exact and a case that breaks it without them."""

    name: str
    identity: str
    premises: tuple[Premise, ...]
    counter_example: str
