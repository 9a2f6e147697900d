"""scd: a server for SiliconCompiler's remote runs."""

__version__ = "0.1.0"
