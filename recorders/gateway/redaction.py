"""What is removed from a request before it is recorded (D9). Digests are of what was evaluated, before."""

from __future__ import annotations

from typing import Any, Final

from ..capture import pointer_token

OFF: Final = "off"
DEFAULT: Final = "default"
STRICT: Final = "strict"
#: Profiles by what they remove; a gateway's own is the least that is removed.
STRICTNESS: Final = {OFF: 0, DEFAULT: 1, STRICT: 2}

SENSITIVE: Final = frozenset(
    "access_token api_key authorization email messages password phone prompt raw ssn token transcript".split()
)


def redact(request: dict[str, Any], profile: str) -> tuple[dict[str, Any], list[str]]:
    """The request without what the profile removes, and JSON pointers to what was there (RFC 6901).

    `default` removes the sensitive keys of the inline context at any depth and in any case, `strict` the
    whole inline context, `off` nothing. `context.redaction` of what is left says the profile and the
    pointers, behind those that the caller had listed. The given request is not changed.
    """
    context = request["context"]
    if "inline" not in context:
        return request, []
    removed: list[str] = []
    kept = {name: value for name, value in context.items() if name != "inline"}
    if profile == STRICT:
        removed.append("/context/inline")
    elif profile == DEFAULT:
        kept["inline"] = _without_sensitive(context["inline"], "/context/inline", removed)
    else:
        kept["inline"] = context["inline"]
    told = context.get("redaction", {}).get("fields_removed", [])
    kept["redaction"] = {"profile": profile, "fields_removed": [*told, *removed]}
    return {**request, "context": kept}, removed


def _without_sensitive(value: Any, pointer: str, removed: list[str]) -> Any:
    if isinstance(value, list):
        return [_without_sensitive(item, f"{pointer}/{index}", removed) for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    kept: dict[str, Any] = {}
    for name, item in value.items():
        inside = f"{pointer}/{pointer_token(name)}"
        if name.casefold() in SENSITIVE:
            removed.append(inside)
        else:
            kept[name] = _without_sensitive(item, inside, removed)
    return kept
