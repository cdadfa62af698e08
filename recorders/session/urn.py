"""URNs of kernels, actions and sessions: `ckp://{Type}#{Identifier}[:v{Version}]` (contract S6).

    ckp://Kernel#Billing.Refunds:v1.0
    ckp://Action#Billing.Refunds/refund.issue-1773518402000

Names may hold any text: what has a meaning in a URN, or none in a URI (RFC 3986, section 2), is
percent-encoded when a URN is built, and decoded when a name is read from one.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from ..errors import InvalidUrn

SCHEME: Final = "ckp://"
KERNEL: Final = "Kernel"
ACTION: Final = "Action"
DEFAULT_VERSION: Final = "v1.0"

_TYPE: Final = r"[A-Za-z][A-Za-z0-9]*"
_VERSION: Final = r"v[0-9]+\.[0-9]+(?:\.[0-9]+)?"
#: What may stand in an identifier: neither the signs that structure a URN nor white space or controls.
_IDENTIFIER: Final = r"[^:#?\s\x00-\x1f\x7f-\x9f\ud800-\udfff]+"
_URN: Final = re.compile(rf"ckp://({_TYPE})#({_IDENTIFIER})(?::({_VERSION}))?")
_MOMENT: Final = re.compile(r"(.+)-([0-9]{1,19})", re.DOTALL)
#: Beside letters, digits and `-._~`, which `quote` never touches. A name has no slash of its own.
_PLAIN: Final = "!$&'()*+,;=@"


class Urn(NamedTuple):
    """The parts of a URN; `str` puts them together again. `version` is `v1.0` or None."""

    type: str
    identifier: str
    version: str | None = None

    def __str__(self) -> str:
        return f"{SCHEME}{self.type}#{self.identifier}" + (f":{self.version}" if self.version else "")


class ActionName(NamedTuple):
    """What an action's URN says: the kernel's short name, the action, and when (ms since 1970 UTC)."""

    kernel: str
    action: str
    at_ms: int | None


def parse_urn(text: str) -> Urn:
    """The parts of a URN; the inverse of `str`. Raises InvalidUrn."""
    match = _URN.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise InvalidUrn(text, "expected ckp://Type#Identifier, or ckp://Type#Identifier:v1.0")
    return Urn(match[1], match[2], match[3])


def validate_urn(text: str) -> bool:
    """Whether the text is a URN, and if it is a kernel's or an action's, a whole one."""
    try:
        urn = parse_urn(text)
        if urn.type == KERNEL:
            kernel_name(text)
        elif urn.type == ACTION:
            parse_action_urn(text)
    except InvalidUrn:
        return False
    return True


def build_urn(type: str, identifier: str, version: str | None = None) -> str:
    """A URN of its parts, which must be fit to stand in it; a version may do without its `v`."""
    if version is not None and not version.startswith("v"):
        version = f"v{version}"
    urn = Urn(type, identifier, version)
    if parse_urn(str(urn)) != urn:
        raise InvalidUrn(str(urn), f"the identifier {identifier!r} would be read as something else")
    return str(urn)


# -- kernels -------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def build_kernel_urn(name: str, version: str = DEFAULT_VERSION) -> str:
    """The URN of a kernel given by its short name."""
    return build_urn(KERNEL, _encoded(name), version)


@lru_cache(maxsize=1024)
def kernel_urn(kernel: str) -> str:
    """The URN of a kernel given by its short name or by its URN, which is kept as it is."""
    if not kernel.startswith(SCHEME):
        return build_kernel_urn(kernel)
    kernel_name(kernel)
    return kernel


@lru_cache(maxsize=1024)
def kernel_name(urn: str) -> str:
    """The short name in a kernel's URN; the inverse of `build_kernel_urn`. Raises InvalidUrn."""
    parts = parse_urn(urn)
    if parts.type != KERNEL or "/" in parts.identifier:
        raise InvalidUrn(urn, "expected a kernel's URN, such as ckp://Kernel#Name:v1.0")
    return unquote(parts.identifier)


# -- actions -------------------------------------------------------------------------------


def build_action_urn(kernel: str, action: str, at_ms: int | None = None) -> str:
    """The URN of an action of a kernel, which is given by its short name or its URN.

    at_ms: when, in milliseconds since 1970 UTC; None for the action as such.
    """
    name = kernel_name(kernel) if kernel.startswith(SCHEME) else kernel
    moment = "" if at_ms is None else f"-{at_ms}"
    return build_urn(ACTION, f"{_encoded(name)}/{_encoded_action(action)}{moment}")


def parse_action_urn(urn: str) -> ActionName:
    """What an action's URN says; the inverse of `build_action_urn` with a time. Raises InvalidUrn.

    Without one, an action whose own name ends in `-` and digits is taken for one with a time.
    """
    parts = parse_urn(urn)
    kernel, slash, action = parts.identifier.partition("/")
    if parts.type != ACTION or not (kernel and slash and action):
        raise InvalidUrn(urn, "expected an action's URN, such as ckp://Action#Name/type-1773518402000")
    moment = _MOMENT.fullmatch(action)
    if moment is None:
        return ActionName(unquote(kernel), unquote(action), None)
    return ActionName(unquote(kernel), unquote(moment[1]), int(moment[2]))


@lru_cache(maxsize=1024)
def _encoded(name: str) -> str:
    """A name as it stands in an identifier; refuses what is no name."""
    if not isinstance(name, str) or not name:
        raise InvalidUrn(name, "a name must be text that is not empty")
    return quote(name, safe=_PLAIN, errors="replace")


@lru_cache(maxsize=1024)
def _encoded_action(name: str) -> str:
    """An action's name may have slashes: the first slash of the URN ends the kernel's name."""
    return "/".join(_encoded(part) if part else "" for part in name.split("/")) if name else _encoded(name)
