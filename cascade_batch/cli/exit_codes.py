"""Exit codes of `cascade-batch`; `ray job submit` tells only 0 from the rest."""

FINISHED, FAILED, BAD_INPUT, TOO_MANY_FAILED, DIFFERENT, INTERRUPTED = 0, 1, 2, 3, 4, 130
BUSY, DONE_WITH_FAILED_ROWS = 5, 6
"""Of collections: somebody else is at work on it; an edition was committed in which some rows have failed."""
UNREAD = 141
"""As a shell shows a program that SIGPIPE ended."""
