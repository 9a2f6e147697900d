"""Faults injected for real into a real daemon: see docs/RELIABILITY.md, and run ``make faults``."""
