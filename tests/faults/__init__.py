"""Faults injected for real into a real daemon and its jobs: ``make faults``. What it shows: docs/RELIABILITY.md."""
