"""The airline example: what it prints is what its README says, and evidence never comes from later (D11)."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from loading import load

from tallystick import Ledger, Policy, import_chat, list_sessions

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "airline"
DATA = ROOT.parent / "shared" / "data" / "airline_agent_sessions.jsonl.gz"
recordings = pytest.mark.skipif(not DATA.exists(), reason="the recordings are not here")

USER = {"membership": "regular", "payment_methods": {"credit_card_1": {}, "certificate_2": {}}}
RESERVATION = {
    "reservation_id": "ABC123",
    "user_id": "ann_1",
    "origin": "SFO",
    "destination": "JFK",
    "flight_type": "one_way",
    "cabin": "economy",
    "flights": [{"flight_number": "HAT1", "date": "2024-05-20", "origin": "SFO", "destination": "JFK"}],
    "passengers": [{"first_name": "Ann", "last_name": "Ng", "dob": "1990-01-01"}],
    "created_at": "2024-05-01T10:00:00",
    "total_baggages": 2,
    "nonfree_baggages": 1,
    "insurance": "no",
}


@pytest.fixture(scope="module")
def adapter() -> ModuleType:
    return load(EXAMPLE / "adapter.py")


def conversation(*turns: Any) -> dict[str, Any]:
    """Texts are the user's; (tool, arguments, answer) are calls, answered at once."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": "policy"}]
    for number, turn in enumerate(turns):
        if isinstance(turn, str):
            messages.append({"role": "user", "content": turn})
            continue
        tool, arguments, answer = turn
        function = {"name": tool, "arguments": json.dumps(arguments)}
        call = {"id": f"c{number}", "type": "function", "function": function}
        text = answer if isinstance(answer, str) else json.dumps(answer)
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": f"c{number}", "name": tool, "content": text})
    return {"messages": messages, "reward": 1.0}


LOOK_UP = ("get_reservation_details", {"reservation_id": "ABC123"}, RESERVATION)
PROFILE = ("get_user_details", {"user_id": "ann_1"}, USER)
CANCEL = ("cancel_reservation", {"reservation_id": "ABC123"}, RESERVATION | {"status": "cancelled"})


def change(flights: list[tuple[str, str]], cabin: str = "economy", payment: str = "credit_card_1") -> Any:
    listed = [{"flight_number": number, "date": date} for number, date in flights]
    arguments = {"reservation_id": "ABC123", "cabin": cabin, "flights": listed, "payment_id": payment}
    return "update_reservation_flights", arguments, RESERVATION


def bags(total: int, charged: int) -> Any:
    arguments = {"reservation_id": "ABC123", "total_baggages": total, "nonfree_baggages": charged}
    return "update_reservation_baggages", arguments | {"payment_id": "credit_card_1"}, RESERVATION


def book(passengers: int = 1, payments: tuple[str, ...] = ("credit_card_1",), **more: Any) -> Any:
    arguments = {
        "user_id": "ann_1",
        "cabin": "economy",
        "flights": [],
        "passengers": RESERVATION["passengers"] * passengers,  # type: ignore[operator]
        "payment_methods": [{"payment_id": name, "amount": 1} for name in payments],
        "total_baggages": passengers,
        "nonfree_baggages": 0,
        **more,
    }
    return "book_reservation", arguments, "Error: no seats"


def certificate(amount: int) -> Any:
    return "send_certificate", {"user_id": "ann_1", "amount": amount}, "sent"


@pytest.fixture
def decide(adapter: ModuleType, tmp_path: Path) -> Any:
    """The verdicts and first reasons on the data-changing calls of a conversation."""
    from tallystick import Gateway

    def run(*turns: Any) -> list[tuple[str, str]]:
        with Ledger.open(tmp_path / "a.tally") as ledger:
            import_chat(ledger, [conversation(*turns)], outcome="reward")
            [session] = list_sessions(ledger)
            gateway = Gateway(ledger, EXAMPLE / "policy.yml")
            records = [gateway.decide(request) for _, request in adapter.requests_of(ledger, session.stream)]
        return [(record.verdict.value, record.reason_codes[0]) for record in records]

    return run


TRUSTED = [("TRUST", "AS_THE_POLICY_SAYS")]


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        (["yes", LOOK_UP, CANCEL], [("ESCALATE", "CANCEL_NOT_COVERED")]),
        (["yes", CANCEL], [("QUERY", "NOT_LOOKED_UP")]),
        (["hm", LOOK_UP, CANCEL], [("QUERY", "NOT_CONFIRMED")]),
        (["yes", (*LOOK_UP[:2], RESERVATION | {"insurance": "yes"}), CANCEL], TRUSTED),
        (["yes", (*LOOK_UP[:2], RESERVATION | {"cabin": "business"}), CANCEL], TRUSTED),
        (["yes", (*LOOK_UP[:2], RESERVATION | {"created_at": "2024-05-15T09:00:00"}), CANCEL], TRUSTED),
        (
            [
                "yes",
                (*LOOK_UP[:2], RESERVATION | {"cabin": "business", "flights": [{"date": "2024-05-14"}]}),
                CANCEL,
            ],
            [("ESCALATE", "ALREADY_FLOWN")],
        ),
        (["ok", LOOK_UP, change([("HAT1", "2024-05-21")])], TRUSTED),
        (["ok", LOOK_UP, change([("HAT1", "2024-05-14")])], [("ABSTAIN", "FLIGHT_IN_THE_PAST")]),
        (
            [
                "ok",
                (*LOOK_UP[:2], RESERVATION | {"cabin": "basic_economy"}),
                change([("HAT1", "2024-05-21")]),
            ],
            [("ABSTAIN", "BASIC_ECONOMY_FLIGHTS")],
        ),
        (
            [
                "ok",
                (*LOOK_UP[:2], RESERVATION | {"cabin": "basic_economy"}),
                change([("HAT1", "2024-05-20")]),
            ],
            TRUSTED,
        ),
        (
            [
                "ok",
                LOOK_UP,
                (
                    "search_direct_flight",
                    {},
                    [{"flight_number": "HAT2", "origin": "SFO", "destination": "LAX"}],
                ),
                change([("HAT2", "2024-05-21")]),
            ],
            [("ABSTAIN", "OTHER_TRIP")],
        ),
        (
            ["ok", LOOK_UP, PROFILE, change([("HAT1", "2024-05-21")], payment="certificate_2")],
            [("ABSTAIN", "PAYMENT_NOT_BY_CARD")],
        ),
        (
            ["ok", LOOK_UP, PROFILE, change([("HAT1", "2024-05-21")], payment="gift_card_9")],
            [("ABSTAIN", "PAYMENT_NOT_IN_PROFILE")],
        ),
        (["ok", LOOK_UP, PROFILE, bags(3, 2)], TRUSTED),
        (["ok", LOOK_UP, PROFILE, bags(3, 1)], [("ABSTAIN", "TOO_MANY_FREE_BAGS")]),
        (["ok", LOOK_UP, PROFILE, bags(1, 0)], [("ABSTAIN", "BAGS_REMOVED")]),
        (["ok", LOOK_UP, bags(3, 2)], [("QUERY", "NOT_LOOKED_UP")]),
        (["ok", PROFILE, book()], TRUSTED),
        (["ok", PROFILE, book(6)], [("ABSTAIN", "TOO_MANY_PASSENGERS")]),
        (["ok", PROFILE, book(nonfree_baggages=1)], [("ABSTAIN", "FREE_BAG_CHARGED")]),
        (["ok", PROFILE, book(passengers=1, total_baggages=2, nonfree_baggages=1)], TRUSTED),
        (
            ["ok", PROFILE, book(payments=("certificate_2", "certificate_2"))],
            [("ABSTAIN", "TOO_MANY_PAYMENT_METHODS")],
        ),
        (["ok", LOOK_UP, PROFILE, certificate(100)], [("ABSTAIN", "NOT_ENTITLED")]),
        (["ok", LOOK_UP, (*PROFILE[:2], USER | {"membership": "gold"}), certificate(100)], TRUSTED),
        (
            ["ok", LOOK_UP, (*PROFILE[:2], USER | {"membership": "gold"}), certificate(75)],
            [("ABSTAIN", "WRONG_COMPENSATION")],
        ),
        (
            [
                "ok",
                LOOK_UP,
                (
                    "update_reservation_passengers",
                    {"reservation_id": "ABC123", "passengers": RESERVATION["passengers"] * 2},  # type: ignore[operator]
                    "Error",
                ),
            ],
            [("ABSTAIN", "PASSENGER_COUNT_CHANGED")],
        ),
    ],
)
def test_the_rules(decide: Any, turns: list[Any], expected: list[tuple[str, str]]) -> None:
    assert decide(*turns) == expected


def test_evidence_comes_from_what_was_earlier_alone(decide: Any) -> None:
    """What is looked up, said or answered after the call counts for nothing; a change before it does."""
    assert decide("hm", CANCEL, LOOK_UP, "yes") == [("QUERY", "NOT_LOOKED_UP")]


def test_a_change_of_cabin_counts_though_its_answer_has_the_old_one(decide: Any) -> None:
    upgrade = change([("HAT1", "2024-05-20")], cabin="business")
    assert decide("yes", LOOK_UP, upgrade, CANCEL) == TRUSTED * 2


def test_an_answer_of_the_same_message_is_not_earlier(adapter: ModuleType, tmp_path: Path) -> None:
    """Two calls asked for at once: the second could not know what the first would answer."""
    calls = [
        {"id": name, "type": "function", "function": {"name": tool, "arguments": json.dumps(arguments)}}
        for name, (tool, arguments, _) in (("a", LOOK_UP), ("b", CANCEL))
    ]
    messages = [
        {"role": "user", "content": "yes"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "a", "content": json.dumps(RESERVATION)},
        {"role": "tool", "tool_call_id": "b", "content": "done"},
    ]
    with Ledger.open(tmp_path / "a.tally") as ledger:
        import_chat(ledger, [{"messages": messages}])
        [session] = list_sessions(ledger)
        [(_, request)] = adapter.requests_of(ledger, session.stream)
    assert "reservation" not in request["evidence"]


def test_the_policy_is_valid_and_quotes_the_prose() -> None:
    policy = Policy.load(EXAMPLE / "policy.yml")
    given = {code for rule in policy.rules for code in rule.reason_codes} | {"NO_RULE_APPLIES"}
    assert given == set(policy.document.reason_codes)  # type: ignore[arg-type]
    if DATA.exists():
        with gzip.open(DATA) as file:
            prose = json.loads(file.readline())["messages"][0]["content"]
        lines = [line.strip() for line in (EXAMPLE / "policy.yml").read_text("utf-8").splitlines()]
        comments = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
        quoted = [quote for quote in re.findall(r'"([^"]*)"', comments) if "…" not in quote]
        assert len(quoted) >= 10
        assert [quote for quote in quoted if quote not in " ".join(prose.split())] == []


@recordings
def test_a_run_prints_what_the_readme_says(tmp_path: Path, adapter: ModuleType) -> None:
    """`run` imports `adapter` by its name."""
    assert adapter.__name__ == "adapter"
    path = tmp_path / "agents.tally"
    with Ledger.open(path) as ledger, gzip.open(DATA) as file:
        import_chat(ledger, (json.loads(line) for line in file), outcome="reward")

    command = [sys.executable, str(EXAMPLE / "run.py"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    [figures] = re.findall(r"```\n(\d.*?)```", (EXAMPLE / "README.md").read_text("utf-8"), re.DOTALL)
    assert done.stdout.startswith(figures)
    assert done.stdout.count("Under which policy") == 3
    for verdict in ("\nABSTAIN: ", "\nQUERY: ", "\nESCALATE: "):
        assert verdict in done.stdout
    with Ledger.open(path) as ledger:
        head = ledger.head()
        assert len(load(EXAMPLE / "run.py").decide_all(ledger)) == 121
        assert ledger.head() == head, "asking again gives the first decisions"


def test_without_sessions_it_says_how_to_get_some(tmp_path: Path) -> None:
    for path in (tmp_path / "none.tally", tmp_path / "empty.tally"):
        if path.name == "empty.tally":
            Ledger.open(path).close()
        command = [sys.executable, str(EXAMPLE / "run.py"), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
        assert done.returncode == 1
        assert "tally import chat FILE --outcome reward" in done.stderr


def test_help_is_help() -> None:
    result = subprocess.run(
        [sys.executable, EXAMPLE / "run.py", "--help"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0
    assert "the ledger that" in result.stdout
