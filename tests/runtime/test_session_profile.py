"""Settings of a session as a file, and what a worker is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fuzz.side_files import SESSIONS
from normfold.errors import UsageError
from normfold.runtime import session_profile
from normfold.runtime.session_profile import SCHEMA, SessionProfile, session_request, threading_of

FULL = SessionProfile(
    provider="cuda",
    provider_options={"enable_cuda_graph": "1"},
    intra_threads=2,
    options={"graph_optimization_level": "ORT_ENABLE_ALL", "enable_mem_pattern": False},
    config={"session.intra_op.allow_spinning": "0"},
    disabled_optimizers=("SkipLayerNormFusion",),
)


@pytest.mark.parametrize("profile", [FULL, SessionProfile()])
def test_a_file_there_and_back(tmp_path: Path, profile: SessionProfile) -> None:
    (tmp_path / "p.json").write_text(json.dumps(profile.to_json()))
    assert session_profile.read(tmp_path / "p.json") == profile


def test_fields_may_be_left_out() -> None:
    assert session_profile.from_json({"schema": SCHEMA}) == SessionProfile()


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "normfold.session/2"},
        {"providr": "cpu"},
        {"provider": "abacus"},
        {"options": {"enable_magic": True}},
        {"options": {"enable_mem_pattern": 1}},
        {"options": {"graph_optimization_level": "ALL"}},
        {"options": []},
        {"config": {"session.intra_op.allow_spinning": 0}},
        {"intra_threads": 0},
        {"intra_threads": True},
        {"disabled_optimizers": "SkipLayerNormFusion"},
    ],
)
def test_what_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        session_profile.from_json(FULL.to_json() | change)
    assert caught.value.code == "bad-session-profile"


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_a_file_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(UsageError) as caught:
        session_profile.read(tmp_path / "p.json")
    assert caught.value.code == "bad-session-profile"


def test_spinning_threads_are_shared_by_all_sessions() -> None:
    profiles = [SessionProfile(), SessionProfile(disabled_optimizers=("GeluFusion",))]
    assert threading_of(profiles, 2, "server").pool == 2
    assert threading_of(profiles, 1, "server").pool == 0
    assert threading_of(profiles, 2, "edge").pool == 0


def test_sessions_with_threads_of_their_own_stop_spinning_after_a_run() -> None:
    threading = threading_of([SessionProfile(), SessionProfile(intra_threads=1)], 2, "server")
    assert threading.pool == 0
    assert threading.note
    config = session_request(SessionProfile(), 2, "server", threading)["config"]
    assert config == {"session.force_spinning_stop": "1"}


def test_on_the_edge_threads_sleep_unless_the_profile_says_otherwise() -> None:
    threading = threading_of([SessionProfile()], 2, "edge")
    config = session_request(SessionProfile(), 2, "edge", threading)["config"]
    assert config == {"session.intra_op.allow_spinning": "0", "session.inter_op.allow_spinning": "0"}
    own = SessionProfile(config={"session.intra_op.allow_spinning": "1"})
    assert session_request(own, 2, "edge", threading)["config"]["session.intra_op.allow_spinning"] == "1"


def test_the_profiles_threads_win() -> None:
    threading = threading_of([FULL], 8, "edge")
    assert session_request(FULL, 8, "edge", threading)["intra_threads"] == 2
    assert session_request(SessionProfile(), 8, "edge", threading)["intra_threads"] == 8


@pytest.mark.parametrize("name", sorted(SESSIONS.keys() - {"long entry"}))
def test_only_known_settings(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        session_profile.from_json({"schema": SCHEMA, **SESSIONS[name]})
    assert caught.value.code == "bad-session-profile"
