"""Every error a user can meet: one picklable root, few children, one message shape.

A message says what went wrong, where, what was got, what was expected and what to do next.
Errors of single rows are not exceptions: they travel as columns (see `schemas.ERROR_CODES`).
"""

import difflib
from collections.abc import Callable, Iterable


class CascadeError(Exception):
    """Root of all errors this package raises on purpose. Survives pickling with its fields.

    `spent` tells whether it came after pictures were rendered, `busy` that another process is to end first.
    """

    spent = False
    busy = False

    def __init__(
        self, what: str, *, where: str = "", got: object = None, expected: object = None, next_step: str = ""
    ) -> None:
        self.what, self.where, self.got, self.expected, self.next_step = what, where, got, expected, next_step
        super().__init__(self._message())

    def _message(self) -> str:
        lines = [self.what]
        for label, value in (("where", self.where), ("got", self.got), ("expected", self.expected)):
            if value is not None and value != "":
                lines.append(f"  {label}: {value}")
        if self.next_step:
            lines.append(f"  next: {self.next_step}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple:
        fields = {k: v for k, v in self.__dict__.items() if k != "what"}
        return _rebuild, (type(self), self.what, fields)


def _rebuild(kind: type[CascadeError], what: str, fields: dict) -> CascadeError:
    error = kind(
        what,
        where=fields.pop("where"),
        got=fields.pop("got"),
        expected=fields.pop("expected"),
        next_step=fields.pop("next_step"),
    )
    error.__dict__.update(fields)
    return error


class SpecError(CascadeError):
    """A bad spec, flag, or pool that does not fit the cluster; nothing was spent."""


class PromptTableError(CascadeError):
    """A prompt table that cannot be planned or has changed under a run."""


class WeightsError(CascadeError):
    """Weights that are missing, unreadable, of another shape, or not those of the run."""


class PictureError(CascadeError):
    """A picture of a prompt that cannot be had or read; in a run it fails its row alone."""


class StorageError(CascadeError):
    """A store that refused or failed. `transient` tells whether trying again later may help."""

    transient = False


class IntegrityError(CascadeError):
    """Stored data that contradicts the run: a changed table, foreign objects, a lost race that differs."""


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known name that is most like a word which is none of them, if one is alike at all."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)), None)


def did_you_mean(word: str, known: Iterable[str], shown: Callable[[str], str] = str) -> str:
    """The next step after a misspelt name: the closest one, as it is to be shown. Empty if none is close."""
    name = closest(word, known)
    return f"did you mean {shown(name)}?" if name else ""
