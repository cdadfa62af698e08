"""The files of an incident that follow from its evidence: written with it, and made again by who checks it.

Values in, bytes out: the same incident and events give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from ..rendering.html import report_html
from ..rendering.story import Moment
from .readme import readme
from .summary import facts_of

if TYPE_CHECKING:
    from .incident import Incident


def report_page(incident: Incident, moments: Iterable[Moment]) -> bytes:
    """report.html: what happened, event by event."""
    told = list(moments)
    line = str(incident.whole)
    return report_html(
        incident.report,
        told,
        title=f"Incident: {incident.what}",
        facts=facts_of(incident.summary, line, incident.notes, {moment.seq for moment in told}),
        left_out=max(0, incident.summary.events - len(told)),
        verdict=incident.verdict,
    ).encode("utf-8", "backslashreplace")


def summary_document(incident: Incident) -> dict[str, Any]:
    """summary.json, as plain JSON values."""
    return {name: value for name, value in incident.to_dict().items() if name != "files"}


def readme_page(incident: Incident, names: Iterable[str], events: int, head: str) -> bytes:
    """README.txt. names: of the files beside it. events: those in events.jsonl."""
    what = incident.what[:1].upper() + incident.what[1:]
    return readme(what, incident.verdict, str(incident.whole), events, list(names), head)


def pretty(value: Any) -> bytes:
    """JSON for files that people may look into."""
    return msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=2) + b"\n"
