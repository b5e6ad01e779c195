"""Tests are a package, so that `tests.servers` imports the same under `pytest` and `python -m pytest`."""
