"""The vocabulary: the bodies of the built-in event kinds, a module an area, and no behaviour.

`catalogue.py` lists them all; `page.py` writes docs/events.md from it (`python -m tallystick.events`).
"""
