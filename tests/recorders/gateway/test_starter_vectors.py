"""The starter policy on its vectors: the request, and the verdict and reasons that it has to give."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tallystick.projections.memory import NOTHING
from tallystick.recorders.gateway.decision import decide_purely, question_of
from tallystick.recorders.gateway.policy import STARTER_POLICY, STARTER_VECTORS, Policy
from tallystick.recorders.gateway.request import check_request

VECTORS = [json.loads(line) for line in STARTER_VECTORS.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_vector(vector: dict[str, Any]) -> None:
    policy = Policy.load(STARTER_POLICY)
    request = check_request(vector["request"]).plain
    decision = decide_purely(policy, question_of(policy, request), NOTHING, None, redaction="default")
    assert {"verdict": decision.verdict, "reason_codes": decision.reason_codes} == vector["expect"]


def test_the_vectors_are_many_and_reach_every_rule() -> None:
    """All but the two about memory, which a request alone cannot reach."""
    assert len(VECTORS) >= 20
    assert len({vector["name"] for vector in VECTORS}) == len(VECTORS)
    given = {code for vector in VECTORS for code in vector["expect"]["reason_codes"]}
    assert given == set(Policy.load(STARTER_POLICY).document.reason_codes) - {  # type: ignore[arg-type]
        "LIKE_AN_EARLIER_FAILURE",
        "TOO_UNCERTAIN",
    }
    assert {vector["expect"]["verdict"] for vector in VECTORS} == {"TRUST", "QUERY", "ESCALATE", "ABSTAIN"}
