"""Print docs/events.md."""

from .page import events_page

if __name__ == "__main__":
    print(events_page(), end="")
