"""The same executions by kl-kernel-logic 0.5.0 and by ours: same cores, digests, shapes (K1, K3, K6, K7).

Where they differ on purpose, docs/contracts.md says so and a test here holds the difference.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallystick import CAEL, CaelResult, ExecutionTrace, FailureCode, Kernel, PsiDefinition

peer: Any = pytest.importorskip("kl_kernel_logic", reason="kl-kernel-logic 0.5.0, the peer, is not installed")

TEXT = st.text(st.characters())  # surrogates too: both write ASCII
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=12,
)
METADATA = st.dictionaries(TEXT, JSON, max_size=5)
ODD_KEYS = st.dictionaries(TEXT | st.integers() | st.booleans() | st.none() | st.floats(), JSON, max_size=5)
NOON = dt.datetime(2026, 3, 12, 12, tzinfo=dt.UTC)


class Refused(Exception):
    class Inside(Exception):
        pass


def returns() -> Any:
    return {"total": 3}


def raises(error: Exception) -> Callable[[], Any]:
    def task() -> Any:
        raise error

    return task


def broken() -> Any:
    raise RuntimeError("a provider's own")


TASKS: dict[str, Any] = {
    "returns": returns,
    "raises": raises(ValueError("no")),
    "raises what it may not": raises(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")),
    "raises a nested type": raises(Refused.Inside("\ud800")),
    "raises a strange name": raises(type("Größe \n", (Exception,), {})("x")),
    "raises a key": raises(KeyError(("a", 1))),
    "raises a group": raises(ExceptionGroup("several", [ValueError("a")])),
    "does not fit": lambda missing: missing,
    "is not callable": 5,
}
PROVIDERS: dict[str, dict[str, Any]] = {
    "clocks": {},
    "deterministic": {"deterministic_mode": True},
    "given": {
        "run_id_factory": lambda: "r",
        "now_provider": lambda: NOON,
        "perf_counter_provider": lambda: 1.5,
    },
    "run id raises": {"run_id_factory": broken},
    "now raises": {"now_provider": broken},
    "perf counter raises": {"perf_counter_provider": broken, "deterministic_mode": True},
    "all raise": {"run_id_factory": broken, "now_provider": broken, "perf_counter_provider": broken},
}


def both(
    psi: tuple[Any, ...], task: Any, providers: dict[str, Any], **options: Any
) -> tuple[ExecutionTrace[Any], Any]:
    ours = Kernel(**providers).execute(psi=PsiDefinition(*psi), task=task, **options)
    theirs = peer.Kernel(**providers).execute(psi=peer.PsiDefinition(*psi), task=task, **options)
    return ours, theirs


@given(
    TEXT,
    TEXT,
    METADATA | ODD_KEYS,
    st.sampled_from(list(TASKS.values())),
    st.sampled_from(list(PROVIDERS.values())),
)
def test_k6_the_same_digest(
    psi_type: str, name: str, metadata: dict[Any, Any], task: Any, providers: dict[str, Any]
) -> None:
    ours, theirs = both((psi_type, name, metadata), task, providers)
    assert ours.to_json(include_observational=False) == theirs.to_json(include_observational=False)
    assert ours.digest() == theirs.digest()
    assert (ours.success, ours.failure_code.value) == (theirs.success, theirs.failure_code.value)
    assert (ours.output, ours.exception_type) == (theirs.output, theirs.exception_type)


@given(ODD_KEYS)
def test_k1_the_same_description(metadata: dict[Any, Any]) -> None:
    ours, theirs = (
        PsiDefinition("t", "n", metadata).describe(),
        peer.PsiDefinition("t", "n", metadata).describe(),
    )
    assert json.dumps(ours) == json.dumps(theirs)


@pytest.mark.parametrize("psi", ["text", None, 5])
@pytest.mark.parametrize("task", [returns, 5])
def test_k4_the_same_digest_for_what_is_no_psi(psi: Any, task: Any) -> None:
    ours = Kernel().execute(psi=psi, task=task)
    theirs = peer.Kernel().execute(psi=psi, task=task)
    assert ours.digest() == theirs.digest()
    assert ours.failure_code is FailureCode.INVALID_INPUT
    assert ours.exception_type == theirs.exception_type == "KernelError"


@given(JSON, METADATA)
def test_k6_the_same_json_of_the_whole_trace(output: Any, metadata: dict[str, Any]) -> None:
    ours, theirs = both(("t", "n", {"a": [1]}), lambda: output, PROVIDERS["given"], metadata=metadata)
    assert ours.to_json() == theirs.to_json()
    assert json.dumps(ours.to_dict(), sort_keys=True) == json.dumps(theirs.to_dict(), sort_keys=True)


@pytest.mark.parametrize("task", [TASKS["raises"], TASKS["raises a key"], TASKS["does not fit"]])
def test_k3_the_same_texts_of_an_exception(task: Any) -> None:
    ours, theirs = both(("t", "n", {}), task, PROVIDERS["deterministic"])
    assert ours.to_dict() == theirs.to_dict()
    assert dict(ours.kernel_meta) == dict(theirs.kernel_meta)


def names_of(dataclass: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(dataclass)]


def test_k3_the_same_fields() -> None:
    ours, theirs = both(("t", "n", {}), returns, {})
    assert names_of(ours) == names_of(theirs)
    assert ours.kernel_meta.keys() == theirs.kernel_meta.keys()
    assert names_of(CaelResult) == names_of(peer.CaelResult)
    assert [code.name for code in FailureCode] == [code.name for code in peer.FailureCode]


# -- pipelines -----------------------------------------------------------------------------

STEPS = {
    "good": (returns, {}),
    "adds": (lambda x: x + 1, {"x": 1}),
    "none": (lambda: None, {}),
    "fails": (TASKS["raises"], {}),
    "does not fit": (returns, {"unexpected": 1}),
    "not callable": (5, {}),
    "no kwargs": (returns, None),
}


def run(module_cael: Any, module_kernel: Any, module_psi: Any, names: list[str], **options: Any) -> Any:
    steps = [(module_psi("t", name), *STEPS[name]) for name in names]
    return module_cael(module_kernel(deterministic_mode=True)).run(steps, **options)


def peer_psi(psi_type: str, name: str) -> Any:
    return peer.PsiDefinition(psi_type, name, {})


@given(st.lists(st.sampled_from(list(STEPS)), max_size=5), METADATA)
def test_k7_the_same_pipelines(names: list[str], metadata: dict[str, Any]) -> None:
    ours = run(CAEL, Kernel, PsiDefinition, names, metadata=metadata)
    theirs = run(peer.CAEL, peer.Kernel, peer_psi, names, metadata=metadata)
    assert (ours.success, ours.failure_code) == (theirs.success, theirs.failure_code)
    assert [trace.to_json() for trace in ours.traces] == [trace.to_json() for trace in theirs.traces]
    if ours.failure_code != "INVALID_STEP":  # its words are each package's own
        assert ours.failure_message == theirs.failure_message
    if ours.success:
        assert ours.final_output == theirs.final_output


# -- differences on purpose ----------------------------------------------------------------


def test_k7_the_final_output_after_a_failure_is_that_of_the_last_success() -> None:
    names = ["adds", "good", "fails"]
    assert run(CAEL, Kernel, PsiDefinition, names).final_output == {"total": 3}
    assert run(peer.CAEL, peer.Kernel, peer_psi, names).final_output is None


def test_k2_exceptions_that_cannot_be_told_are_raised_by_the_peer_alone() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    ours = Kernel().execute(psi=PsiDefinition("t", "n"), task=raises(Mute()))
    assert ours.exception_type == "Mute"
    with pytest.raises(RuntimeError):
        peer.Kernel().execute(psi=peer.PsiDefinition("t", "n", {}), task=raises(Mute()))


def test_k5_a_perf_counter_counts_in_deterministic_mode_here_alone() -> None:
    def readings() -> dict[str, Any]:
        return {"deterministic_mode": True, "perf_counter_provider": iter([1.0, 3.0, 5.0]).__next__}

    assert Kernel(**readings()).execute(psi=PsiDefinition("t", "n"), task=returns).runtime_ms == 2000.0
    psi = peer.PsiDefinition("t", "n", {})
    assert peer.Kernel(**readings()).execute(psi=psi, task=returns).runtime_ms == 0.0


def test_k1_a_psi_without_metadata_is_described_here_alone() -> None:
    assert PsiDefinition("t", "n", None).describe()["metadata"] == {}
    with pytest.raises(AttributeError):
        peer.PsiDefinition("t", "n", None).describe()
