r"""Weights inside a prompt: `a (red:1.3) circle` says red louder.

| written | weight |
|---|---|
| `(words)` | 1.1 |
| `(words:1.3)` | 1.3, a decimal number without sign |
| `[words]` | 1 / 1.1 |
| `\(` `\)` `\[` `\]` `\\` | the character itself |

Nested weights multiply. Whatever does not fit is text as it stands: a bracket without a partner, one that crosses a
pair that closes first, a colon that no number follows, a number inside square brackets. No prompt is an error.
"""

import re
from collections.abc import Sequence
from itertools import groupby

STEP = 1.1
"""Weight of a plain pair of brackets."""

_SIGN = re.compile(
    r"""\\[\\()\[\]]                                            # an escaped character
      | [(\[]                                                   # opens
      | (?: :[ ]*(?P<weight>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[ ]*)? \)   # closes, with a weight or without
      | \]""",
    re.VERBOSE,
)
_PARTNER = {")": "(", "]": "["}


def pieces(prompt: str) -> list[tuple[str, float]]:
    """The prompt without its syntax, in pieces of one weight each; [] for "".

    Neighbours differ in weight, and no piece is empty.
    """
    signs = list(_SIGN.finditer(prompt))
    factors = _factors(signs)
    found, weights, at = [], [1.0], 0
    for number, sign in enumerate(signs):
        found.append((prompt[at : sign.start()], weights[-1]))
        at = sign.end()
        if number not in factors:
            found.append((_unescaped(sign[0]), weights[-1]))
        elif sign[0] in "([":
            weights.append(weights[-1] * factors[number])
        else:
            weights.pop()
    return _joined([*found, (prompt[at:], 1.0)])


def without_weights(prompt: str) -> str:
    """The prompt as the text encoder reads it, without brackets, weights and escapes."""
    return "".join(words for words, _ in pieces(prompt))


def _factors(signs: Sequence[re.Match[str]]) -> dict[int, float]:
    """Sign number -> factor, of the brackets that make pairs; both of a pair are in it."""
    factors: dict[int, float] = {}
    left_open: dict[str, list[int]] = {"(": [], "[": []}
    for number, sign in enumerate(signs):
        if sign[0] in left_open:
            left_open[sign[0]].append(number)
        elif not sign[0].startswith("\\") and left_open[_PARTNER[sign[0][-1]]]:
            first = left_open[_PARTNER[sign[0][-1]]].pop()
            for others in left_open.values():  # brackets still open inside the pair have no partner any more
                while others and others[-1] > first:
                    others.pop()
            plain = STEP if sign[0] != "]" else 1 / STEP
            factors[first] = factors[number] = float(sign["weight"]) if sign["weight"] else plain
    return factors


def _unescaped(text: str) -> str:
    return text[1:] if text.startswith("\\") else text


def _joined(found: list[tuple[str, float]]) -> list[tuple[str, float]]:
    groups = groupby((piece for piece in found if piece[0]), key=lambda piece: piece[1])
    return [("".join(words for words, _ in group), weight) for weight, group in groups]
