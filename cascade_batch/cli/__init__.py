"""The command line: the only place for exit codes and printing. It decides nothing that the rooms below could."""

from cascade_batch.cli.entry import entry, main

__all__ = ["entry", "main"]
