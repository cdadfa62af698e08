"""How many examples a property test draws that needs another number than Hypothesis's own."""

from hypothesis import settings

QUICK_SHARE = 0.3


def examples(number: int) -> int:
    """All with `HYPOTHESIS_PROFILE=full` set, else a share of them; see `tests/conftest.py`."""
    return number if settings.get_current_profile_name() == "full" else round(number * QUICK_SHARE)
