"""ULIDs: 48 bits of milliseconds and 80 random ones in 26 letters that sort by time."""

from __future__ import annotations

from typing import Final

#: Crockford's base 32: no I, L, O, U.
ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
LENGTH: Final = 26
RANDOM_BYTES: Final = 10
#: The letters, from the first, that hold the time.
TIME_LENGTH: Final = 10
_MS_MAX: Final = (1 << 48) - 1


def ulid(at_us: int, random: bytes) -> str:
    """The ULID of a time (microseconds since 1970 UTC) and 10 random bytes.

    A time before 1970 counts as 1970, one beyond the year 10889 as its last millisecond.
    """
    assert len(random) == RANDOM_BYTES
    number = min(max(at_us // 1000, 0), _MS_MAX) << 80 | int.from_bytes(random)
    return "".join(ALPHABET[number >> shift & 31] for shift in range(5 * (LENGTH - 1), -1, -5))
