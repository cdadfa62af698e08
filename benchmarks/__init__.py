"""Measurements of Tallystick against real peers, side by side in one run; see README.md here."""
