"""README.txt of an incident: what is there, what it proves, how to check it with and without Tallystick."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .files import CHAIN, PACKS

_README: Final = """\
{what}
{verdict}
The whole ledger, as whoever made this says: {ledger}

What is here
  report.html       what happened, event by event, and what a replay of it found; open it in a browser
  summary.json      what happened, for programs; replay.json: the whole report of the replay
  events.jsonl      the {events} events of the incident with every column, hashes in hex: lines of an export
  why.jsonl         why each of them belongs
{chain_file}{packs}  head.txt          the ledger's head line when this was made, as whoever made this says
  verify_ledger.py  checks the hashes; needs Python 3.11 and the package blake3, and nothing of Tallystick
  manifest.json     size and SHA-256 of each file above

How to check it with Tallystick
      tally incident --check FOLDER_OR_ZIP --manifest SHA256 --expect HEAD
  SHA256 is what you were told that manifest.json has; HEAD is a head line of the ledger that you got from
  elsewhere. Leave out what you have not got: head.txt is no substitute, since it came with the rest.
  It holds every file against the manifest, derives every hash again, holds every event of every pack against
  events.jsonl, replays the packs, finds again what belongs, and makes report.html, summary.json, why.jsonl
  and this file again from the events. It says VERIFIED only if HEAD is the end of the chain that is here.

How to check it without Tallystick
  Read verify_ledger.py, or take it from a place that you trust (docs/verify_ledger.py of Tallystick).
      pip install blake3
      python verify_ledger.py --part events.jsonl
{check_chain}  It derives every event's hash again from its columns: body_hash is BLAKE3(salt || body), and
  hash covers it with seq, at, kind, stream, key, meta and the hash of the event before (docs/format.md).
  It looks at no other file. A pack (packs/) is worth something only if each line of the events.jsonl in it
  is a line of events.jsonl here; the reports only if they say what the events say.

How to check it against the ledger that it came from
      tally -f LEDGER show SEQ                   has the hash that stands here beside that seq
      tally -f LEDGER verify --expect head.txt   says VERIFIED, or that events came after it

What it proves
{proves}
What it does not prove
  That what was recorded is true: only that it is what was recorded.
  Whoever owns a ledger can write all of it anew, with every hash, and head.txt and this folder with it.
  Against that helps only a head line that was kept elsewhere, before. The head here is
      {head}
  report.html, summary.json, replay.json and why.jsonl are conclusions; the events and packs are the evidence.
  Erased bodies stay erased, and what was redacted or recorded as a digest alone is not here.
"""
_CHAIN_FILE: Final = """\
  chain.jsonl       of every other event what the chain needs: all columns but salt and body
"""
_PACKS: Final = """\
  packs/            {packs}
"""
_CHECK_CHAIN: Final = """\
      python verify_ledger.py events.jsonl --chain chain.jsonl --expect HEAD
  HEAD as above. Without it, the end of the chain is what whoever made this says: UNANCHORED.
  If events of sessions or decisions that events.jsonl holds stand in chain.jsonl alone, it says
  which: their bodies were withheld.
"""
_PROVES_PART: Final = """\
  Each event in events.jsonl is whole: nothing in it was changed without making its hash anew. Events that
  follow one another in the log are linked. That the others stand in the ledger, and that nothing between them
  was left out, is not shown here: compare their hashes with the ledger, or ask for the incident
  with its chain (tally incident --with-chain).
"""
_PROVES_CHAIN: Final = """\
  If HEAD is from elsewhere: events.jsonl and chain.jsonl together are the chain from event 1 to the head.
  Every event in events.jsonl stands in it, at its place, unchanged since the head was kept, and none is in
  neither file. Which events stand in chain.jsonl alone was up to whoever made this: their bodies are not
  here, nor can they be guessed from their hashes, which are salted. Their kinds, streams, keys and meta are.
"""


def readme(what: str, verdict: str, ledger: str, events: int, names: Sequence[str], head: str) -> bytes:
    """The text. ledger: what came of verifying all of it. names: of the files that were written."""
    with_chain = CHAIN in names
    packs = sum(name.startswith(f"{PACKS}/") for name in names)
    decisions = {1: "the decision, as `tally export ID --pack` writes it"}.get(
        packs, f"each of the {packs:,} decisions, as `tally export ID --pack` writes it"
    )
    text = _README.format(
        what=_line(what),
        verdict=_line(verdict),
        ledger=_line(ledger),
        events=f"{events:,}",
        chain_file=_CHAIN_FILE if with_chain else "",
        check_chain=_CHECK_CHAIN if with_chain else "",
        proves=_PROVES_CHAIN if with_chain else _PROVES_PART,
        packs=_PACKS.format(packs=decisions) if packs else "",
        head=head,
    )
    return text.encode()


def _line(text: str) -> str:
    """Text from a ledger as one line, whatever it holds that moves a cursor or reorders letters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
