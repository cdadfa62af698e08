"""From a recorded session to decision requests: one for each call that changes data, with its evidence.

Evidence is what the airline's gateway could have known at that moment: the call's own arguments, and the
answers that came before the agent asked for the call. Nothing of what came later is looked at, nor how the
session ended. The adapter counts and compares; what is allowed is for `policy.yml` to say.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from tallystick import Event, Ledger

#: The tools that change data.
CHANGING = (
    "book_reservation",
    "cancel_reservation",
    "update_reservation_baggages",
    "update_reservation_flights",
    "update_reservation_passengers",
    "send_certificate",
)
#: The prose policy of every session begins with it: "The current time is 2024-05-15 15:00:00 EST."
NOW = dt.datetime(2024, 5, 15, 15)
#: What the recorded users said when they agreed.
AGREED = re.compile(r"\b(yes|yeah|yep|sure|confirm(ed)?|proceed|go ahead|correct|ok(ay)?|please do)\b", re.I)


class Call(NamedTuple):
    """A call of a tool: when it was asked for and answered (numbers of messages), and its event."""

    tool: str
    arguments: dict[str, Any]
    answer: Any
    asked_in: int
    answered_in: int
    event: Event


class Known:
    """What the answers so far said: users, reservations, and where flights go."""

    def __init__(self) -> None:
        self.users: dict[str, dict[str, Any]] = {}
        self.reservations: dict[str, dict[str, Any]] = {}
        self.routes: dict[str, tuple[str, str]] = {}

    def learn(self, call: Call) -> None:
        """Take in an answer; one that is an error, or no JSON, teaches nothing."""
        answer = call.answer
        if isinstance(answer, dict) and "reservation_id" in answer:
            if call.tool == "update_reservation_flights":  # its answer still has the old cabin
                answer = answer | {"cabin": call.arguments["cabin"]}
            self.reservations[answer["reservation_id"]] = answer
            self._learn_flights(answer.get("flights", []))
        elif isinstance(answer, dict) and "membership" in answer:
            self.users[call.arguments["user_id"]] = answer
        elif isinstance(answer, list):
            self._learn_flights(answer)

    def _learn_flights(self, found: list[Any]) -> None:
        for flight in found:
            if isinstance(flight, list):  # flights with a stop are listed together
                self._learn_flights(flight)
            elif isinstance(flight, dict) and {"flight_number", "origin", "destination"} <= flight.keys():
                self.routes[flight["flight_number"]] = (flight["origin"], flight["destination"])


def requests_of(ledger: Ledger, stream: str) -> Iterator[tuple[Call, dict[str, Any]]]:
    """The data-changing calls of a session, in order, each with the request to decide it."""
    calls: list[Call] = []
    said: list[tuple[int, str]] = []
    for event in ledger.read(stream=stream, kinds=["message.recorded", "kernel.executed"]):
        if event.kind == "message.recorded":
            message = event.body["derived"]
            if message["role"] == "user":
                said.append((message["index"], message["content"] or ""))
        elif event.body["derived"]["psi"]["psi_type"] == "tool":
            calls.append(_call(event))
    for call in calls:
        if call.tool in CHANGING:
            known = Known()
            for earlier in calls:
                if earlier.answered_in < call.asked_in:
                    known.learn(earlier)
            last_words = max((words for words in said if words[0] < call.asked_in), default=(0, ""))[1]
            evidence = _evidence(call, known) | {"user_agreed": bool(AGREED.search(last_words))}
            yield call, _request(call, stream, evidence)


def _call(event: Event) -> Call:
    derived, observed = event.body["derived"], event.body["observed"]
    answer = derived["output"]
    with suppress(TypeError, ValueError):  # an error, or a sentence
        answer = json.loads(answer)
    metadata = observed["metadata"]
    return Call(
        derived["psi"]["name"],
        derived["arguments"],
        answer,
        metadata["asked_in"],
        metadata["answered_in"],
        event,
    )


def _request(call: Call, stream: str, evidence: dict[str, Any]) -> dict[str, Any]:
    reference = {"id": str(call.event.seq), "kind": "event"}
    form = json.dumps(reference, sort_keys=True, separators=(",", ":")).encode()
    reservation_id = call.arguments.get("reservation_id")
    whose = reservation_id or f"for {call.arguments['user_id']}"
    target = {"system": "reservations"}
    if reservation_id:
        target |= {"resource_type": "reservation", "resource_id": reservation_id}
    action: dict[str, Any] = {
        "type": f"airline.{call.tool}",
        "intent": f"{call.tool.replace('_', ' ').capitalize()} {whose}",
        "target": target,
    }
    if call.tool == "send_certificate":
        action["amount"] = {"value": call.arguments["amount"], "currency": "USD"}
    return {
        "schema_version": "decision_request.v0",
        "trace": {"correlation_id": stream, "span_id": call.event.body["observed"]["run_id"]},
        "subject": {"type": "agent", "id": "airline-agent"},
        "action": action,
        "evidence": evidence,
        "context": {
            "mode": "reference",
            "digest": f"sha256:{hashlib.sha256(form).hexdigest()}",
            "ref": reference,
        },
    }


# -- evidence ------------------------------------------------------------------------------


def _evidence(call: Call, known: Known) -> dict[str, Any]:
    """What is known of a call before it is made. What is not known is left out."""
    arguments = call.arguments
    reservation = known.reservations.get(arguments.get("reservation_id", ""))
    if call.tool == "send_certificate":
        own = [each for each in known.reservations.values() if each["user_id"] == arguments["user_id"]]
        reservation = own[-1] if own else None
    user_id = arguments.get("user_id") or (reservation or {}).get("user_id", "")
    user = known.users.get(user_id)
    evidence: dict[str, Any] = {}
    if user is not None:
        evidence["user"] = {"id": user_id, "membership": user["membership"]}
    if reservation is not None:
        evidence["reservation"] = _reservation(reservation)
    paid_with = _paid_with(arguments)
    if paid_with:
        evidence["payment"] = _payment(paid_with, user)
    if call.tool in ("book_reservation", "update_reservation_baggages"):
        booked = arguments if call.tool == "book_reservation" else reservation
        evidence["bags"] = _bags(arguments, booked, reservation)
        if booked is not None:
            evidence["cabin"] = booked["cabin"]
    if call.tool in ("book_reservation", "update_reservation_passengers"):
        evidence["passengers"] = _passengers(arguments, reservation)
    if call.tool == "update_reservation_flights" and reservation is not None:
        evidence["change"] = _change(arguments, reservation, known)
    if call.tool == "send_certificate" and reservation is not None:
        evidence["certificate"] = {"per_passenger": arguments["amount"] / len(reservation["passengers"])}
    return evidence


def _reservation(reservation: dict[str, Any]) -> dict[str, Any]:
    age = NOW - dt.datetime.fromisoformat(reservation["created_at"])
    dates = [dt.date.fromisoformat(flight["date"]) for flight in reservation["flights"]]
    return {
        "cabin": reservation["cabin"],
        "insurance": reservation["insurance"],
        "passengers": len(reservation["passengers"]),
        "age_hours": round(age / dt.timedelta(hours=1), 1),
        # A flight of an earlier day has been flown; of today's, nobody can tell from the reservation.
        "flights_flown": sum(date < NOW.date() for date in dates),
    }


def _paid_with(arguments: dict[str, Any]) -> list[str]:
    """The ids of the payment methods that a call names."""
    if "payment_id" in arguments:
        return [arguments["payment_id"]]
    return [method["payment_id"] for method in arguments.get("payment_methods", [])]


def _payment(paid_with: list[str], user: dict[str, Any] | None) -> dict[str, Any]:
    """How many methods of each kind there are; and, where the profile is known, how many it does not have."""
    kinds = [re.sub(r"_\d+$", "", name) for name in paid_with]
    payment = {f"{kind}s": kinds.count(kind) for kind in ("certificate", "credit_card", "gift_card")}
    if user is not None:
        payment["not_in_profile"] = sum(name not in user["payment_methods"] for name in paid_with)
    return payment


def _bags(
    arguments: dict[str, Any], booked: dict[str, Any] | None, before: dict[str, Any] | None
) -> dict[str, Any]:
    """How many bags, how many of them unpaid, and how that compares with what was there."""
    total, charged = arguments["total_baggages"], arguments["nonfree_baggages"]
    bags: dict[str, Any] = {"total": total, "charged": charged}
    if booked is not None:
        bags["free_per_passenger"] = (total - charged) / len(booked["passengers"])
    if before is not None:
        bags["added"] = total - before["total_baggages"]
    return bags


def _passengers(arguments: dict[str, Any], reservation: dict[str, Any] | None) -> dict[str, Any]:
    """How many, how many without a name or a date of birth, and how many more than before."""
    listed = arguments["passengers"]
    needed = ("first_name", "last_name", "dob")
    passengers = {
        "count": len(listed),
        "incomplete": sum(not all(each.get(name) for name in needed) for each in listed),
    }
    if reservation is not None:
        passengers["more"] = len(listed) - len(reservation["passengers"])
    return passengers


def _change(arguments: dict[str, Any], reservation: dict[str, Any], known: Known) -> dict[str, Any]:
    """Which flights are new, and whether the trip still goes from where to where it went."""
    had = {(flight["flight_number"], flight["date"]) for flight in reservation["flights"]}
    wanted = [(flight["flight_number"], flight["date"]) for flight in arguments["flights"]]
    new = [flight for flight in wanted if flight not in had]
    change: dict[str, Any] = {
        "flights": bool(new) or len(wanted) != len(had),
        "cabin": arguments["cabin"] != reservation["cabin"],
        "past_flights": sum(dt.date.fromisoformat(date) < NOW.date() for _, date in new),
    }
    if wanted and all(number in known.routes for number, _ in wanted):
        legs = [known.routes[number] for number, _ in wanted]
        origin, destination = reservation["origin"], reservation["destination"]
        end = origin if reservation["flight_type"] == "round_trip" else destination
        visited = {airport for leg in legs for airport in leg}
        change["same_trip"] = legs[0][0] == origin and legs[-1][1] == end and destination in visited
    return change
