"""Where everything of a collection lies, relative to its root. No I/O."""

TABLE = "table"
"""The Delta table of editions."""
KNOWN = "known"
"""The Delta table of what can be reused."""
LEASE = "lease.json"
RUNS, OUTCOMES, GC = "runs/", "outcomes/", "gc/"
LOG = "_delta_log/"


def run_root(name: str) -> str:
    """Of a run, without a slash at its end."""
    return f"{RUNS}{name}"


def prompts_of(name: str) -> str:
    """Folder of the prompt table of a run."""
    return f"{RUNS}{name}/prompts/"


def outcome_key(name: str) -> str:
    return f"{OUTCOMES}{name}.json"


def is_ours(key: str) -> bool:
    """Whether a key below a collection's root is the collection's to write."""
    return key == LEASE or key.startswith((f"{TABLE}/", f"{KNOWN}/", RUNS, OUTCOMES, GC))
