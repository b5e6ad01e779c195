"""What decides bits besides the input: our version of them, and the fixed switches. No torch here."""

NUMERICS_VERSION = 5
"""Raised whenever a change of ours changes bits, with a bold line in the CHANGELOG."""

SWITCHES = {
    "tf32": False,
    "cudnn_benchmark": False,
    "deterministic": True,
    "attention": "flash, memory-efficient, math",
    "cublas_workspace": ":4096:8",
}
"""What `devices.fix_numerics` sets in every worker; stored in `numerics/` with batch and threads."""
