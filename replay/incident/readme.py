"""README.txt of an incident: what is there, what it proves, how to check it with and without Tallystick."""

from __future__ import annotations

from typing import Final

from tallystick.ledger.event import Head

from .files import CHAIN, FileFact

_README: Final = """\
{what}
{verdict}

What is here
  report.html       what happened, event by event, and what a replay of it found; open it in a browser
  summary.json      what happened, for programs; replay.json: the whole report of the replay
  events.jsonl      the {events} events of the incident with every column, hashes in hex: lines of an export
  why.jsonl         why each of them belongs
{chain_file}  packs/            {packs}
  head.txt          the ledger's head line when this was made
  verify_ledger.py  checks the hashes; needs Python 3.11 and the package blake3, and nothing of Tallystick
  manifest.json     size and SHA-256 of each file above

How to check it without Tallystick
  Read verify_ledger.py, or take it from a place that you trust (docs/verify_ledger.py of Tallystick).
      pip install blake3
      python verify_ledger.py --part events.jsonl
{check_chain}  It derives every event's hash again from its columns: body_hash is BLAKE3(salt || body), and
  hash covers it with seq, at, kind, stream, key, meta and the hash of the event before (docs/format.md).

How to check it with Tallystick
      tally replay packs/NAME.zip
  decides the recorded request again, under the recorded policy with the recorded memory.

How to check it against the ledger that it came from
      tally -f LEDGER show SEQ                   has the hash that stands here beside that seq
      tally -f LEDGER verify --expect head.txt   says VERIFIED, or that events came after it

What it proves
{proves}
What it does not prove
  That what was recorded is true: only that it is what was recorded.
  Whoever owns a ledger can write all of it anew, with every hash. Against that helps only a head line
  that was kept elsewhere, before: compare head.txt with it. The head here is
      {head}
  report.html, summary.json, replay.json and why.jsonl are conclusions; the events and packs are the evidence.
  Erased bodies stay erased, and what was redacted or recorded as a digest alone is not here.
"""
_CHAIN_FILE: Final = """\
  chain.jsonl       of every other event what the chain needs: all columns but salt and body
"""
_CHECK_CHAIN: Final = """\
      python verify_ledger.py events.jsonl --chain chain.jsonl --expect HEAD
  HEAD is a head line that you got from elsewhere, or head.txt if there is none.
"""
_PROVES_PART: Final = """\
  Each event in events.jsonl is whole: nothing in it was changed without making its hash anew. Events that
  follow one another in the log are linked. That the others stand in the ledger, and that nothing between them
  was left out, is not shown here: compare their hashes with the ledger, or ask for the incident
  with its chain (tally incident --with-chain).
"""
_PROVES_CHAIN: Final = """\
  events.jsonl and chain.jsonl together are the chain from event 1 to the head: every event in events.jsonl
  stands in it, at its place, unchanged since the head was kept, and none is missing between them. The bodies
  of the others are not here, nor can they be guessed from their hashes, which are salted.
"""


def readme(what: str, verdict: str, events: int, files: list[FileFact], head: Head) -> bytes:
    """The text. files: those that were written so far."""
    with_chain = any(file.name == CHAIN for file in files)
    packs = sum(file.name.startswith("packs/") for file in files)
    decisions = {
        0: "(empty: no decision belongs to it)",
        1: "the decision, as `tally export ID --pack` writes it",
    }.get(packs, f"each of the {packs:,} decisions, as `tally export ID --pack` writes it")
    text = _README.format(
        what=_line(what),
        verdict=_line(verdict),
        events=f"{events:,}",
        chain_file=_CHAIN_FILE if with_chain else "",
        check_chain=_CHECK_CHAIN if with_chain else "",
        proves=_PROVES_CHAIN if with_chain else _PROVES_PART,
        packs=decisions,
        head=head,
    )
    return text.encode()


def _line(text: str) -> str:
    """Text from a ledger as one line, whatever it holds that moves a cursor or reorders letters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
