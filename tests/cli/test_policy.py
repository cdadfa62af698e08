"""`tally policy validate`, `test` and `diff` (D5, D6, D11)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from requests_to_decide import refund

from tallystick.recorders.gateway.policy import STARTER_POLICY, STARTER_VECTORS

Tally = Callable[..., Any]
TEXT = STARTER_POLICY.read_text("utf-8")


@pytest.fixture
def policy() -> Callable[..., str]:
    """Write the starter policy with texts replaced; gives the file's name."""

    def write(name: str, *changes: tuple[str, str]) -> str:
        text = TEXT
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        Path(name).write_text(text)
        return name

    return write


# -- validate ----------------------------------------------------------------------------------


def test_a_valid_policy(tally: Tally, policy: Callable[..., str]) -> None:
    result = tally("policy", "validate", policy("p.yml"))
    assert (result.status, result.err) == (0, "p.yml: valid\n")
    shown = dict(line.split("\t") for line in result.out.splitlines())
    assert shown["policy id"] == "support-starter"
    assert shown["policy hash"].startswith("sha256:")
    as_json = tally("policy", "validate", "p.yml", "--json").json
    assert (as_json["valid"], as_json["policy_hash"]) == (True, shown["policy hash"])


def test_all_errors_at_once_each_with_its_rule(tally: Tally, policy: Callable[..., str]) -> None:
    """D6."""
    changes = [
        ("$fraud_never_from}", "$fraud_newer_from}"),
        ("tags_is:", "tags_has:"),
        ("[MARKED_FOR", "[MARK_FOR"),
    ]
    result = tally("policy", "validate", policy("p.yml", *changes))
    assert (result.status, result.err) == (1, "p.yml: 4 errors\n")
    rules = [line.split("\t")[0] for line in result.out.splitlines()]
    assert rules == ["fraud-never", "fraud-human", "marked", "marked"]
    problems = tally("policy", "validate", "p.yml", "--json").json["problems"]
    assert [problem["rule_id"] for problem in problems] == rules
    assert set(problems[0]) == {"rule_id", "path", "problem"}


def test_on_a_terminal_no_error_is_cut(
    terminal: Callable[..., tuple[int, str]], policy: Callable[..., str]
) -> None:
    policy("policy.yml", ("tags_is:", "tags_\x7fhas:".replace("\x7f", "")))
    status, shown = terminal("policy", "validate", NO_COLOR="1", columns=60)
    assert status == 1
    assert "ends in no known op; the ops are not_in, present, gte, lte, gt, lt, in, is, ne" in " ".join(
        shown.split()
    )


def test_a_file_that_is_not_there(tally: Tally) -> None:
    assert tally("policy", "validate", "none.yml").status == 2
    assert "`tally init` writes a policy to start from" in tally("policy", "validate").err
    assert tally("policy").status == 2


def test_yaml_that_is_none(tally: Tally) -> None:
    Path("p.yml").write_text("rules: [\x00")
    result = tally("policy", "validate", "p.yml")
    assert result.status == 1
    assert "\x00" not in result.out


# -- test --------------------------------------------------------------------------------------


def vectors(*several: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(vector).encode() + b"\n" for vector in several)


def vector(name: str, request: dict[str, Any], **expect: Any) -> dict[str, Any]:
    return {"name": name, "request": request, "expect": expect}


def test_the_starter_policy_passes_its_vectors(tally: Tally, policy: Callable[..., str]) -> None:
    result = tally("policy", "test", str(STARTER_VECTORS), "--policy", policy("p.yml"))
    assert (result.status, result.out) == (0, "")
    count = len(STARTER_VECTORS.read_text("utf-8").splitlines())
    assert f"{count} vectors: {count} passed, 0 failed\n" in result.err
    assert "no vector reached: like-a-failure, unsure\n" in result.err


def test_a_failed_vector_says_what_came_out(tally: Tally, policy: Callable[..., str]) -> None:
    policy("policy.yml")
    stdin = vectors(
        vector("trusted", refund(), verdict="TRUST", rules=["refund-small"]),
        vector("too large", refund(300), verdict="TRUST", reason_codes=["REFUND_SMALL"]),
        {**vector("like a failure", refund(), verdict="ESCALATE"), "failure_similarity": 0.75},
        {**vector("not much like it", refund(), verdict="TRUST"), "failure_similarity": 0.74},
    )
    result = tally("policy", "test", "-", stdin=stdin)
    assert result.status == 1
    assert [line.split("\t") for line in result.out.splitlines()] == [
        ["failed", "too large (line 2)"],
        ["expected", '{"verdict":"TRUST","reason_codes":["REFUND_SMALL"]}'],
        ["found", '{"verdict":"ESCALATE","reason_codes":["REFUND_LARGE"]}'],
    ]
    assert result.err.startswith("4 vectors: 3 passed, 1 failed\n")
    as_json = tally("policy", "test", "-", "--json", stdin=stdin).json
    assert [one["passed"] for one in as_json["vectors"]] == [True, False, True, True]
    assert "like-a-failure" not in as_json["unreached"]
    assert not list(Path().glob("*.tally"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "line 2: not JSON"),
        (b"[]", "line 2: no vector"),
        (vectors({"name": "x", "request": refund(), "expect": {"verdikt": "TRUST"}}), "verdikt"),
        (vectors({"name": "x", "request": refund(), "expect": {"verdict": "YES"}}), "'YES'"),
        (vectors(vector("x", refund(subject=None))), "line 2: request: subject: missing"),
        (vectors({**vector("x", refund()), "failure_similarity": 2}), "failure_similarity"),
    ],
)
def test_a_bad_vector_is_named(tally: Tally, policy: Callable[..., str], line: bytes, message: str) -> None:
    policy("policy.yml")
    result = tally("policy", "test", "-", stdin=vectors(vector("fine", refund())) + line)
    assert (result.status, result.out) == (2, "")
    assert message in result.err


@pytest.mark.parametrize("vectors", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_no_vectors_are_no_test(tally: Tally, policy: Callable[..., str], vectors: bytes) -> None:
    policy("policy.yml")
    result = tally("policy", "test", "-", stdin=vectors)
    assert (result.status, result.out) == (2, "")
    assert "standard input holds no vector: nothing was tested" in result.err


# -- diff --------------------------------------------------------------------------------------


def test_diff_shows_rules_and_thresholds(tally: Tally, policy: Callable[..., str]) -> None:
    policy("old.yml")
    new = policy(
        "new.yml",
        ("refund_alone_max_usd: 50", "refund_alone_max_usd: 40\n  gifts_max: 3"),
        ("- id: marked", "- id: flagged"),
        ("within_minutes: 15", "within_minutes: 5"),
        ("# Must be there", "# Have to be there"),
    )
    result = tally("policy", "diff", "old.yml", new)
    assert result.status == 1
    rows = [tuple(line.split("\t"))[:6] for line in result.out.splitlines()]
    assert rows[:3] == [
        ("changed", "threshold", "refund_alone_max_usd", "", "50", "40"),
        ("added", "threshold", "gifts_max", "", "", "3"),
        (
            *("changed", "rule", "fraud-never", "then.obligations"),
            *(
                '[{"notify":"fraud-team","within_minutes":15}]',
                '[{"notify":"fraud-team","within_minutes":5}]',
            ),
        ),
    ]
    assert [row[:3] for row in rows[3:]] == [("added", "rule", "flagged"), ("removed", "rule", "marked")]
    assert result.err.startswith("5 differences: 2 changed, 2 added, 1 removed\n")
    [first, *_] = tally("policy", "diff", "old.yml", new, "--json").json
    assert set(first["affects"]) == {"unsure", "refund-small"}


def test_the_same_policy_in_other_words_has_no_difference(tally: Tally, policy: Callable[..., str]) -> None:
    policy("old.yml")
    policy("new.yml", ("# What makes", "# That which makes"))
    result = tally("policy", "diff", "old.yml", "new.yml")
    assert result == (0, "", "no difference\n")
    assert tally("policy", "diff", "old.yml", "new.yml", "--json").json == []


def test_diff_on_a_terminal(terminal: Callable[..., tuple[int, str]], policy: Callable[..., str]) -> None:
    policy("old.yml")
    policy(
        "new.yml", ("refund_alone_max_usd: 50", "refund_alone_max_usd: 40"), ("- id: marked", "- id: flagged")
    )
    status, shown = terminal("policy", "diff", "old.yml", "new.yml", NO_COLOR="1")
    assert status == 1
    assert shown.splitlines()[:2] == [
        "~ threshold refund_alone_max_usd: 50 -> 40  (asked by unsure, refund-small)",
        "+ rule flagged: ESCALATIONS, ESCALATE MARKED_FOR_REVIEW",
    ]


def test_diff_of_a_bad_policy_is_a_bad_input(tally: Tally, policy: Callable[..., str]) -> None:
    Path("bad.yml").write_text("rules: 1")
    assert tally("policy", "diff", policy("old.yml"), "bad.yml").status == 2
    assert tally("policy", "diff", "old.yml", "none.yml").status == 2


def test_a_difference_under_the_same_version_is_remarked_on(tally: Tally, policy: Callable[..., str]) -> None:
    limit = ("refund_alone_max_usd: 50", "refund_alone_max_usd: 60")
    same = tally("policy", "diff", policy("a.yml"), policy("b.yml", limit))
    assert same.status == 1
    assert same.err.endswith("both are support-starter 1: give a changed policy a new policy_version\n")
    newer = policy("c.yml", limit, ('policy_version: "1"', 'policy_version: "2"'))
    assert "give a changed policy" not in tally("policy", "diff", "a.yml", newer).err


def test_on_a_narrow_terminal_words_stay_whole(
    terminal: Callable[..., tuple[int, str]], policy: Callable[..., str]
) -> None:
    name = policy("bad.yml", ("stage: TRUST_PATHS", "stage: TRUSTING"))
    status, shown = terminal("policy", "validate", name, columns=60, NO_COLOR="1")
    assert status == 1
    assert "TRUST_PATHS\n" in shown
    assert max(map(len, shown.splitlines()[:-1])) <= 60
