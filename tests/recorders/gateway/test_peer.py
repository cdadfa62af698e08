"""Against `lumyn` 0.1.0: its own policy file, read by us, gives the verdict, reasons and rules that it gives.

Its wheel has no data files, so the source distribution is needed. It is taken from the folder that
TALLYSTICK_PEERS names (default: `tallystick-peers` in the folder for temporary files); the slow test
fetches it there from the package index. Nothing of it is installed; two modules are imported from its
sources.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tallystick.events import gateway as events
from tallystick.projections.memory import NOTHING
from tallystick.recorders.gateway.decision import decide_purely, question_of
from tallystick.recorders.gateway.policy import Policy
from tallystick.recorders.gateway.request import check_request

SDIST = "lumyn-0.1.0.tar.gz"
CACHE = Path(os.environ.get("TALLYSTICK_PEERS", Path(tempfile.gettempdir()) / "tallystick-peers"))


class Peer(NamedTuple):
    """Its evaluation, its policy as its YAML library reads it, and the same read by us."""

    evaluate: Callable[..., Any]
    raw: dict[str, Any]
    policy: Policy


def peer_from(sdist: Path, folder: Path) -> Iterator[Peer]:
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    root = folder / SDIST.removesuffix(".tar.gz")
    package = ModuleType("lumyn")  # in place of its own, which imports what is not needed here
    package.__path__ = [str(root / "src" / "lumyn")]
    sys.modules["lumyn"] = package
    try:
        text = (root / "policies" / "lumyn-support.v0.yml").read_text("utf-8")
        yield Peer(
            import_module("lumyn.engine.evaluator").evaluate_policy, yaml.safe_load(text), Policy.parse(text)
        )
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "lumyn"]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    if not (CACHE / SDIST).exists():
        pytest.skip(f"{CACHE / SDIST} is not there; `pytest -m slow {Path(__file__).name}` fetches it")
    yield from peer_from(CACHE / SDIST, tmp_path_factory.mktemp("lumyn"))


ABSENT = object()
IDS = st.sampled_from([ABSENT, None, "", "X-1"])
RATIOS = st.sampled_from([ABSENT, None, "0.5", 0, 0.05, 0.34999, 0.35, 0.36, 0.69, 0.7, 1, 1.5]) | st.floats(
    0, 1
)
COUNTS = st.sampled_from([ABSENT, None, "2", 0, 1, 2, 3, 13, 14, 15, 400]) | st.integers(0, 500)
EVIDENCE = {
    **dict.fromkeys(("ticket_id", "order_id", "customer_id", "reason_code", "resolution_code"), IDS),
    "payment_instrument_risk": st.sampled_from([ABSENT, None, "low", "medium", "high", "HIGH", 1]),
    "chargeback_risk": RATIOS,
    "account_takeover_risk": RATIOS,
    "previous_refund_count_90d": COUNTS,
    "customer_age_days": COUNTS,
    "manual_approval": st.sampled_from([ABSENT, None, True, False, "true", 1, 0]),
    "fx_rate_to_usd": st.sampled_from([ABSENT, 0, 1, 0.01, 1.1, 150]),
}


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """Requests about everything that its policy asks about."""
    evidence = {name: value for name, values in EVIDENCE.items() if (value := draw(values)) is not ABSENT}
    action: dict[str, Any] = {
        "type": draw(
            st.sampled_from(
                [
                    "refund",
                    "issue_credit",
                    "close_ticket",
                    "update_ticket",
                    "change_plan",
                    "reset_password",
                    "other",
                ]
            ).map("support.{}".format)
        ),
        "intent": "whatever",
    }
    amount = {
        "value": draw(
            st.sampled_from([ABSENT, 0, 15, 15.5, 25, 25.01, 200, 200.01, -3]) | st.floats(-10, 500)
        ),
        "currency": draw(st.sampled_from([ABSENT, "USD", "EUR", "usd"])),
    }
    if draw(st.booleans()):
        action["amount"] = {name: value for name, value in amount.items() if value is not ABSENT}
    return {
        "schema_version": "decision_request.v0",
        "subject": {"type": "agent", "id": "a"},
        "action": action,
        "evidence": evidence,
        "context": {"mode": "digest_only", "digest": "sha256:" + "0" * 64},
    }


def ours(peer: Peer, request: dict[str, Any]) -> events.Decision:
    question = question_of(peer.policy, check_request(request).plain)
    return decide_purely(peer.policy, question, NOTHING, None, redaction="off")


def theirs(peer: Peer, request: dict[str, Any]) -> Any:
    """Its evaluation.

    It looks `evidence.payment_instrument_risk_is` up under that very name, where nobody would put it, so
    that its rule about it never fires. Here it finds the value there, too, which is what the condition means.
    """
    evidence = dict(request["evidence"])
    if "payment_instrument_risk" in evidence:
        evidence["payment_instrument_risk_is"] = evidence["payment_instrument_risk"]
    return peer.evaluate({**request, "evidence": evidence}, policy=peer.raw)


def compare(peer: Peer, request: dict[str, Any]) -> None:
    mine, other = ours(peer, request), theirs(peer, request)
    assert mine.verdict == other.verdict
    assert mine.reason_codes == other.reason_codes
    assert [(m.rule_id, m.stage, m.effect, m.reason_codes) for m in mine.matched_rules] == [
        (m.rule_id, m.stage, m.effect, m.reason_codes) for m in other.matched_rules
    ]
    assert [(query.field, query.question) for query in mine.queries] == [
        (query["field"], query["question"]) for query in other.queries
    ]


@given(requests())
def test_the_same_requests_give_the_same_decisions(peer: Peer, request: dict[str, Any]) -> None:
    compare(peer, request)


@pytest.mark.parametrize(
    ("evidence", "only_theirs"),
    [
        ({"chargeback_risk": True}, {"R022", "R032"}),  # true is no number
        ({"customer_age_days": False}, {"R033"}),
        ({"payment_instrument_risk": "high"}, set()),
    ],
)
def test_where_we_mean_to_differ(peer: Peer, evidence: dict[str, Any], only_theirs: set[str]) -> None:
    """D6: an ordering op on a non-number is false; true and false are no numbers."""
    request = {
        "subject": {"type": "agent", "id": "a"},
        "schema_version": "decision_request.v0",
        "action": {"type": "support.refund", "intent": "x", "amount": {"value": 10, "currency": "USD"}},
        "evidence": {"ticket_id": "T", "order_id": "O", "customer_id": "C", **evidence},
        "context": {"mode": "digest_only", "digest": "sha256:" + "0" * 64},
    }
    rules = {matched.rule_id for matched in ours(peer, request).matched_rules} - {"DEFAULT"}
    as_given = peer.evaluate(request, policy=peer.raw)
    assert {matched.rule_id for matched in as_given.matched_rules} - {"DEFAULT"} - rules == only_theirs
    assert ("R020" in rules) is (evidence.get("payment_instrument_risk") == "high")
    assert "R020" not in {matched.rule_id for matched in as_given.matched_rules}


def test_its_policy_is_read_as_its_own_library_reads_it(peer: Peer) -> None:
    assert {rule.rule_id for rule in peer.policy.rules} == {rule["id"] for rule in peer.raw["rules"]}
    assert peer.policy.policy_id == peer.raw["policy_id"]


@pytest.mark.slow
def test_fetching_it_from_the_package_index(tmp_path: Path) -> None:
    """Fetches the source distribution, keeps it for the tests above, and compares a thousand requests."""
    CACHE.mkdir(parents=True, exist_ok=True)
    if not (CACHE / SDIST).exists():
        package = SDIST.removesuffix(".tar.gz").replace("-", "==")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-binary", ":all:", "--no-deps"]
        subprocess.run([*command, "--dest", str(CACHE), package], check=True, timeout=100)
    for peer in peer_from(CACHE / SDIST, tmp_path):
        check = partial(compare, peer)

        @given(request=requests())
        @settings(max_examples=1000, deadline=None)
        def same(request: dict[str, Any], check: Callable[[dict[str, Any]], None]) -> None:
            check(request)

        same(check=check)
