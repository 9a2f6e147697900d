"""The one package that imports siliconcompiler. It runs under a ``[[runtime]]`` Python, as the job's account.

It imports nothing else of scd but ``archive``, ``channel``, ``procfs`` and ``units``, all standard library only.
"""
