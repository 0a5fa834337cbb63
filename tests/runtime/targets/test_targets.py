"""A target says what it can do, and a command that makes it run where it cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from normfold.errors import NormfoldError
from normfold.runtime.targets import LOCAL, TARGETS, arm, find, listed

SMALL = replace(LOCAL, name="small", providers=("cpu",), custom_ops=False, limits_memory=False, tunes=False)


@pytest.mark.parametrize(
    ("providers", "custom_ops", "memory"), [(["cuda"], [], None), (["cpu"], ["ops.so"], None), (["cpu"], [], 1 << 30)]
)
def test_what_a_target_cannot_do_is_refused(providers: list[str], custom_ops: list[str], memory: int | None) -> None:
    LOCAL.check(providers, custom_ops, memory)
    SMALL.check(["cpu"], [], None)
    with pytest.raises(NormfoldError) as caught:
        SMALL.check(providers, custom_ops, memory)
    assert (caught.value.code, caught.value.exit_code) == ("target-unsupported", 2)


def test_a_target_that_is_not_there_names_its_command() -> None:
    absent = replace(SMALL, missing="there is no such board", install="buy a board")
    with pytest.raises(NormfoldError) as caught:
        absent.check(["cpu"], [], None)
    assert (caught.value.code, caught.value.exit_code) == ("target-unavailable", 3)
    assert "buy a board" in caught.value.hint


def test_an_unknown_target_suggests_a_known_one() -> None:
    with pytest.raises(NormfoldError) as caught:
        find("lokal")
    assert "local" in caught.value.hint


def test_all_targets_are_listed_under_their_names() -> None:
    assert [one.name for one in listed()] == [*TARGETS, "ssh://user@host"]
    named = [one for one in listed() if one.missing != arm.NO_PLUGINS]
    assert all(one.purpose and (one.install or not one.missing) for one in named)


def test_only_some_targets_can_be_tuned_on() -> None:
    LOCAL.check_tuning()
    find("ssh://host").check_tuning()
    with pytest.raises(NormfoldError) as caught:
        SMALL.check_tuning()
    assert caught.value.code == "target-unsupported"
