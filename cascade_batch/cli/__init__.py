"""The command line: the only place for exit codes and printing."""

from cascade_batch.cli.entry import entry, main

__all__ = ["entry", "main"]
