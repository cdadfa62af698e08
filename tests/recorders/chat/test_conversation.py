"""Conversations in the OpenAI chat format as events of a session (contract S8)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick.events.catalogue import KINDS
from tallystick.ledger import canonical
from tallystick.recorders.chat.conversation import (
    ChatCounts,
    ChatOptions,
    ChatSession,
    _encode_sorted,
    identify,
    outcome_of,
    session_of,
)
from tallystick.recorders.errors import BadConversation
from tallystick.recorders.kernel.psi import PsiDefinition
from tallystick.recorders.kernel.trace import ExecutionTrace, FailureCode


def conversation(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {**fields, "messages": list(messages)}


def call(
    call_id: str | None, name: str = "look_up", arguments: Any = '{"id": 1}', **more: Any
) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def asks(*calls: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


def answer(call_id: str | None, content: Any = "found") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def made(*messages: dict[str, Any], options: ChatOptions | None = None, **fields: Any) -> ChatSession:
    return session_of(conversation(*messages, **fields), options or ChatOptions())


def plain(session: ChatSession) -> list[tuple[str, Any]]:
    """Kind and body of each event, the body as it is read back; each fits its struct and an event."""
    events = []
    for event in session.events:
        assert event.stream == f"session:{session.session_id}"
        assert type(event.body) is KINDS[event.kind]
        data = _encode_sorted(event.body)
        body = canonical.decode(data)
        assert canonical.encode(body) == data
        events.append((event.kind, body))
    return events


def bodies(session: ChatSession, kind: str) -> list[Any]:
    return [body for each, body in plain(session) if each == kind]


def executed(*messages: dict[str, Any]) -> list[Any]:
    return bodies(made(*messages), "kernel.executed")


def balanced(counts: ChatCounts) -> bool:
    return counts.calls == counts.executed + counts.unanswered + counts.malformed


# -- the session -----------------------------------------------------------------------------


def test_a_conversation_in_order() -> None:
    session = made(
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where is  order\n81?"},
        asks(call("c1")),
        answer("c1", '{"state": "sent"}'),
        {"role": "assistant", "content": "Sent."},
        task=7,
    )
    assert [kind for kind, _ in plain(session)] == [
        "session.started",
        *["message.recorded"] * 4,
        "kernel.executed",
        "message.recorded",
        "session.closed",
    ]
    start = plain(session)[0][1]
    assert start["derived"]["label"] == "Where is order 81?"
    assert start["derived"]["kernel"] == "ckp://Kernel#Chat:v1.0"
    assert start["derived"]["source"] == {
        "format": "openai-chat",
        "digest": session.digest,
        "fields": {"task": 7},
        "placeholders": [],
    }
    assert start["observed"] == {"started_at": None, "urn": f"ckp://Session#{session.session_id}"}
    [ran] = bodies(session, "kernel.executed")
    assert ran["derived"] == {
        "psi": {"psi_type": "tool", "name": "look_up", "metadata": {}},
        "arguments": {"id": 1},
        "arguments_digest": ran["derived"]["arguments_digest"],
        "success": True,
        "failure_code": "OK",
        "exception_type": None,
        "output": '{"state": "sent"}',
        "output_digest": ran["derived"]["output_digest"],
        "core_digest": ran["derived"]["core_digest"],
        "placeholders": [],
        "capture": "content",
    }
    assert ran["observed"]["call_id"] == "c1"
    assert (
        ran["observed"]["started_at"]
        is ran["observed"]["finished_at"]
        is ran["observed"]["runtime_ms"]
        is None
    )
    assert ran["observed"]["metadata"] == {"asked_in": 2, "answered_in": 3}
    assert session.counts == ChatCounts(messages=5, calls=1, executed=1)


def test_the_core_digest_is_that_of_a_trace() -> None:
    """K6: the digest that an ExecutionTrace of the same psi and outcome has."""
    import datetime as dt

    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    psi = PsiDefinition("tool", "suche_flüge")
    trace = ExecutionTrace("r", psi, now, now, 0.0, True, FailureCode.OK, "x", None, None, None)
    [ran] = executed(asks(call("c", "suche_flüge")), answer("c"))
    assert ran["derived"]["core_digest"] == trace.digest()


def test_the_id_comes_from_the_content() -> None:
    one = {"messages": [{"role": "user", "content": "é"}], "reward": 1}
    other_way = json.loads(' { "reward" : 1, "messages": [{"content": "\\u00e9", "role": "user"}] }')
    session_id, digest = identify(one)
    assert identify(other_way) == (session_id, digest)
    assert len(session_id) == 16
    assert set(session_id) <= set("0123456789abcdefghjkmnpqrstvwxyz")
    others = [{**one, "reward": 0}, {**one, "more": None}, {"messages": []}, one["messages"]]
    assert len({session_id, *(identify(other)[0] for other in others)}) == 5


def test_the_id_is_for_ever() -> None:
    """Another id would import everything a second time."""
    assert identify({"messages": [{"role": "user", "content": "hello"}]})[0] == "j9kyvszak3axka38"


def test_large_integers_have_an_id_and_a_placeholder() -> None:
    first, second = (made({"role": "user", "content": "x"}, account=2**60 + n) for n in (0, 1))
    assert first.session_id != second.session_id
    source = plain(first)[0][1]["derived"]["source"]
    assert source["fields"]["account"]["$omitted"] == "not JSON"
    assert source["placeholders"] == ["/source/fields/account"]
    assert first.counts.left_out == 1


def test_labels() -> None:
    def label(*messages: dict[str, Any], field: str | None = None, **fields: Any) -> str:
        options = ChatOptions(label=field)
        return str(plain(made(*messages, options=options, **fields))[0][1]["derived"]["label"])

    user = {"role": "user", "content": "x" * 200}
    assert label(user) == "x" * 79 + "…"
    assert label({"role": "system", "content": "a"}) == ""
    assert (
        label({"role": "user", "content": [{"type": "image_url"}, {"type": "text", "text": "See"}]}) == "See"
    )
    assert label({"role": "user", "content": " "}, {"role": "user", "content": "then"}) == "then"
    assert label(user, field="task.id", task={"id": 7}) == "7"
    assert label(user, field="task.id", **{"task.id": "dotted"}) == "dotted"
    assert label(user, field="none") == label(user, field="task", task=None) == ""
    assert label(user, field="task", task="\x1b[2J") == "\x1b[2J"  # escaped where it is shown


# -- outcomes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        *[(value, "complete") for value in (1, 1.0, 2, True, "success", " Complete ", "PASS", "1.0", "true")],
        *[(value, "failed") for value in (0, 0.0, 0.99, -1, False, "failed", "Error", "0", "false", "0.5")],
        *[(value, None) for value in (None, "", "maybe", [], {}, [1], "nan", float("nan"))],
    ],
)
def test_what_an_outcome_field_says(value: Any, outcome: str | None) -> None:
    assert outcome_of(value) == outcome


def test_an_outcome_closes_the_session() -> None:
    options = ChatOptions(outcome="info.reward")
    for reward, outcome in ((1.0, "complete"), (0.0, "failed")):
        session = made(options=options, info={"reward": reward})
        [close] = bodies(session, "session.closed")
        assert session.outcome == outcome
        assert close["derived"] == {
            "session_id": session.session_id,
            "outcome": outcome,
            "given": True,
            "actions": {},
            "kernels": ["ckp://Kernel#Chat:v1.0"],
        }


@pytest.mark.parametrize(
    "fields", [{}, {"info": None}, {"info": {"reward": None}}, {"info": {"reward": "?"}}]
)
def test_an_outcome_that_is_missing_leaves_the_session_in_progress(fields: dict[str, Any]) -> None:
    session = made(options=ChatOptions(outcome="info.reward"), **fields)
    assert session.outcome is None
    assert bodies(session, "session.closed") == []


def test_without_an_outcome_field_a_transcript_is_complete() -> None:
    """S3: no actions, so complete; and not because somebody said so."""
    [close] = bodies(made(), "session.closed")
    assert (close["derived"]["outcome"], close["derived"]["given"]) == ("complete", False)


# -- calls and answers -------------------------------------------------------------------------


def test_parallel_calls_answered_in_another_order() -> None:
    ran = executed(
        asks(call("a", arguments='{"n": 1}'), call("b", arguments='{"n": 2}')),
        answer("b", "two"),
        answer("a", "one"),
    )
    assert [(r["observed"]["call_id"], r["derived"]["arguments"], r["derived"]["output"]) for r in ran] == [
        ("b", {"n": 2}, "two"),
        ("a", {"n": 1}, "one"),
    ]


def test_a_reused_id_goes_to_the_earliest_call_that_waits() -> None:
    session = made(
        asks(call("a", arguments='{"n": 1}')),
        answer("a", "one"),
        asks(call("a", arguments='{"n": 2}'), call("a", arguments='{"n": 3}')),
        answer("a", "two"),
        answer("a", "three"),
    )
    ran = bodies(session, "kernel.executed")
    assert [(r["derived"]["arguments"]["n"], r["derived"]["output"]) for r in ran] == [
        (1, "one"),
        (2, "two"),
        (3, "three"),
    ]
    assert len({r["observed"]["run_id"] for r in ran}) == 3
    assert session.counts.reused_ids == 2
    assert balanced(session.counts)


def test_calls_without_an_answer_and_answers_without_a_call() -> None:
    session = made(
        answer("early"),
        asks(call("early"), call("never")),
        answer("other"),
        answer(None),
        answer("never"),
        answer("never", "again"),
    )
    counts = session.counts
    assert (counts.calls, counts.executed, counts.unanswered, counts.stray_answers) == (2, 1, 1, 4)
    assert counts.messages == 6
    assert balanced(counts)


@pytest.mark.parametrize(
    "malformed",
    [
        None,
        7,
        "call",
        [],
        {},
        {"id": "x"},
        {"id": "x", "function": None},
        {"id": "x", "function": {"name": 7}},
    ],
)
def test_a_malformed_call_stands_in_its_message(malformed: Any) -> None:
    session = made(asks(malformed, call("good")), answer("x"), answer("good"))
    asked = bodies(session, "message.recorded")[0]["derived"]["tool_calls"]
    assert asked[0]["name"] is None
    assert asked[0]["arguments"] == malformed
    assert asked[1] == {"id": "good", "name": "look_up", "arguments": '{"id": 1}'}
    assert (session.counts.malformed, session.counts.executed) == (1, 1)
    assert balanced(session.counts)
    has_id = isinstance(malformed, dict) and "id" in malformed
    assert session.counts.stray_answers == (0 if has_id else 1)


def test_tool_calls_that_are_no_array_are_one_malformed_call() -> None:
    session = made({"role": "assistant", "tool_calls": "none"}, {"role": "assistant", "tool_calls": {}})
    assert session.counts.malformed == session.counts.calls == 2


@pytest.mark.parametrize(
    "arguments",
    ["", "{", "[1]", '"x"', "7", None, 7, [1], '{"a": 1, "a": 2}', "[" * 2000, '{"a": NaN}'],
)
def test_arguments_that_are_no_object_are_kept_as_they_are(arguments: Any) -> None:
    session = made(asks(call("c", arguments=arguments)), answer("c"))
    [ran] = bodies(session, "kernel.executed")
    shown = ran["derived"]["arguments"]
    assert shown["$omitted"] == "no JSON object"
    assert shown.get("text", shown.get("value")) == arguments
    assert ran["derived"]["arguments_digest"] is None
    assert ran["derived"]["placeholders"] == ["/arguments"]
    assert (session.counts.executed, session.counts.bad_arguments) == (1, 1)
    assert balanced(session.counts)


def test_arguments_that_are_an_object_already() -> None:
    [ran] = executed(asks(call("c", arguments={"n": 1})), answer("c"))
    assert ran["derived"]["arguments"] == {"n": 1}
    assert ran["derived"]["placeholders"] == []


def test_the_first_form_of_the_format() -> None:
    """One `function_call` a message, answered by a message of role `function`."""
    ask = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"n": 1}'}}
    session = made(
        ask,
        {"role": "function", "name": "g", "content": "?"},
        {"role": "function", "name": "f", "content": "1"},
    )
    [ran] = bodies(session, "kernel.executed")
    assert (ran["derived"]["psi"]["name"], ran["derived"]["output"]) == ("f", "1")
    message = bodies(session, "message.recorded")[0]["derived"]
    assert message["tool_calls"] == [{"id": None, "name": "f", "arguments": '{"n": 1}'}]
    assert message["extra"] == {"tool_calls": {"0": {"type": "function_call"}}}
    assert session.counts.stray_answers == 1


def test_a_custom_tool_takes_text() -> None:
    custom = {"id": "c", "type": "custom", "custom": {"name": "run", "input": "print(1)"}}
    [ran] = executed(asks(custom), answer("c", "1"))
    assert ran["derived"]["psi"]["name"] == "run"
    assert ran["derived"]["arguments"] == {"input": "print(1)"}


def test_an_answer_of_parts_is_kept_as_it_is() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    [ran] = executed(asks(call("c")), answer("c", parts))
    assert ran["derived"]["output"] == parts


# -- messages ----------------------------------------------------------------------------------


def restored(body: Any) -> dict[str, Any]:
    """The source's message, from its event; the inverse of the import for messages that fit."""
    turn = body["derived"]
    extra = dict(turn["extra"] or {})
    of_calls = extra.pop("tool_calls", {})
    message = {name: turn[name] for name in ("role", "content", "name", "tool_call_id")} | extra
    calls = []
    for number, each in enumerate(turn["tool_calls"]):
        if each["name"] is None:
            calls.append(each["arguments"])
            continue
        other = dict(of_calls.get(str(number), {}))
        function = {"name": each["name"], "arguments": each["arguments"]} | other.pop("function", {})
        calls.append({"id": each["id"], "type": "function", "function": function} | other)
    return message | ({"tool_calls": calls} if calls else {})


def without_nulls(message: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in message.items() if value is not None}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
short = st.text(max_size=6)
good_calls = st.fixed_dictionaries(
    {
        "id": short,
        "type": st.just("function"),
        "function": st.fixed_dictionaries(
            {"name": short, "arguments": short | json_values}, optional={"strict": json_values}
        ),
    },
    optional={"index": json_values},
)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "developer", "critic"])},
    optional={
        "content": json_values,
        "name": short | st.integers(0, 9),
        "tool_call_id": short,
        "tool_calls": st.lists(good_calls, max_size=3, min_size=1),
        "refusal": st.none() | short,
        "annotations": json_values,
    },
)


@given(st.lists(messages, max_size=6))
def test_nothing_of_a_message_is_lost(given_messages: list[dict[str, Any]]) -> None:
    session = made(*given_messages)
    recorded = bodies(session, "message.recorded")
    assert [body["derived"]["index"] for body in recorded] == list(range(len(given_messages)))
    for body, message in zip(recorded, given_messages, strict=True):
        assert without_nulls(restored(body)) == without_nulls(message)
    assert balanced(session.counts)


garbage = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "tool_calls", "id", "function", "name", "arguments", "messages"]
            )
            | short,
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(garbage | st.builds(lambda inner: {"messages": inner}, st.lists(garbage, max_size=4)))
def test_garbage_is_refused_with_its_place_or_imported(value: Any) -> None:
    try:
        session = session_of(value, ChatOptions(outcome="a.b"))
    except BadConversation as error:
        assert str(error)
    else:
        plain(session)
        assert balanced(session.counts)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "expected an object with `messages`, got an array"),
        ("x", "expected an object with `messages`, got a string"),
        ({}, "messages: expected an array of messages, found none"),
        ({"messages": None}, "messages: expected an array of messages, found null"),
        ({"messages": ["hi"]}, "messages[0]: expected an object with `role`, got a string"),
        ({"messages": [{"role": "user"}, {}]}, "messages[1].role: expected a string, found null"),
        ({"messages": [{"role": 7}]}, "messages[0].role: expected a string, found a number"),
        (
            {"messages": [{"role": "x"}] * 20_001},
            "messages: 20,001 messages, more than the 20,000 of a session",
        ),
        (
            {"messages": [asks(*[None] * 10_001)]},
            "messages[0].tool_calls: 10,001 calls, more than the 10,000",
        ),
        ({"messages": [], "x": object()}, "no JSON ("),
        ({"messages": [], "x": "\ud800"}, "no JSON ("),
    ],
)
def test_what_is_no_conversation(value: Any, said: str) -> None:
    with pytest.raises(BadConversation) as caught:
        session_of(value, ChatOptions())
    assert said in str(caught.value)


def test_times_that_the_source_gives() -> None:
    session = made(
        {"role": "user", "content": "a", "timestamp": "2026-03-12T14:30:00+02:00"},
        asks(call("c")) | {"timestamp": 1773325800},
        answer("c") | {"created_at": 1773325801.5},
        {"role": "assistant", "content": "b", "timestamp": "2026-03-12T14:31:00"},
    )
    assert [body["observed"]["recorded_at"] for body in bodies(session, "message.recorded")] == [
        "2026-03-12T12:30:00.000000Z",
        "2026-03-12T14:30:00.000000Z",
        "2026-03-12T14:30:01.500000Z",
        None,  # without a zone it is no moment
    ]
    [ran] = bodies(session, "kernel.executed")
    assert ran["observed"]["started_at"] == "2026-03-12T14:30:00.000000Z"
    assert ran["observed"]["finished_at"] == "2026-03-12T14:30:01.500000Z"
    assert bodies(session, "session.started")[0]["observed"]["started_at"] == "2026-03-12T12:30:00.000000Z"
    assert bodies(session, "session.closed")[0]["observed"]["ended_at"] == "2026-03-12T14:30:01.500000Z"


@pytest.mark.parametrize(
    "time", [-1, 0, 1e300, True, "", "yesterday", "9999-12-31T23:59:59-23:59", 1e12, [], {}]
)
def test_what_is_no_time(time: Any) -> None:
    [body] = bodies(made({"role": "user", "timestamp": time}), "message.recorded")
    assert body["observed"]["recorded_at"] is None
    assert body["derived"]["extra"] == {"timestamp": time}


# -- size --------------------------------------------------------------------------------------


def test_what_is_too_large_is_left_out_and_counted() -> None:
    large = "x" * 300_000
    session = made(
        {"role": "user", "content": large},
        asks(call("c", arguments=json.dumps({"text": large}))),
        answer("c", large),
        notes=large,
    )
    source, asked, called, answered = (body["derived"] for kind, body in plain(session)[:4])
    assert source["source"]["fields"]["$omitted"] == "too large"
    assert asked["content"] == {"$omitted": "too large", "type": "str", "bytes": 300_002}
    assert asked["placeholders"] == ["/content"]
    assert called["placeholders"] == ["/tool_calls/0/arguments"]
    assert answered["placeholders"] == ["/content"]
    [ran] = bodies(session, "kernel.executed")
    assert ran["derived"]["placeholders"] == ["/arguments", "/output"]
    assert ran["derived"]["output_digest"].startswith("blake3:")
    assert session.counts.left_out == 6


def test_many_large_values_in_one_message_share_its_room() -> None:
    calls = [call(str(n), arguments="x" * 200_000) for n in range(20)]
    [body] = bodies(made(asks(*calls)), "message.recorded")
    assert len(body["derived"]["tool_calls"]) == len(body["derived"]["placeholders"]) == 20


def test_a_message_that_never_fits_is_refused() -> None:
    with pytest.raises(BadConversation, match=r"messages\[0\]: too large for an event even without content"):
        made(asks(*[call("c" * 100) for _ in range(10_000)]))


def test_long_names_are_cut_and_still_match() -> None:
    """Some servers put kilobytes into a call's id."""
    ids = ["call_" + "x" * 4000 + str(n) for n in range(2)]
    session = made(asks(*[call(each, "n" * 1000) for each in ids]), answer(ids[1], "1"), answer(ids[0], "0"))
    ran = bodies(session, "kernel.executed")
    assert [each["derived"]["output"] for each in ran] == ["1", "0"]
    message = bodies(session, "message.recorded")[0]["derived"]
    assert [len(each["id"]) for each in message["tool_calls"]] == [256, 256]
    assert message["tool_calls"][1]["id"] == ran[0]["observed"]["call_id"]
    assert message["extra"]["tool_calls"]["0"] == {"id": ids[0], "function": {"name": "n" * 1000}}
