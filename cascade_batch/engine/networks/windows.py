"""Cutting a text that is too long for the text tower into windows that each fit.

A window ends after its last comma if that lies in its last third, else after its last whole word; only a word that
is longer than a window is cut itself. So a phrase stays together where it can, at the price of a few tokens of room.
"""

from collections.abc import Container, Sequence

WORD_END = "</w>"
"""Ends every token of CLIP's byte pair encoding that ends a word."""


def cut(tokens: Sequence[str], room: int, whole: Container[str] = ()) -> list[slice]:
    """Windows of at most `room` tokens that together hold every token once; one empty window for no tokens.

    Args:
        tokens: as the vocabulary spells them, without start and end.
        whole: tokens that are words by themselves, such as those that a LoRA brought.
    """
    windows, first = [], 0
    while len(tokens) - first > room:
        last = first + _end(tokens[first : first + room], whole)
        windows.append(slice(first, last))
        first = last
    return [*windows, slice(first, len(tokens))]


def _end(window: Sequence[str], whole: Container[str]) -> int:
    ends = [i + 1 for i, token in enumerate(window) if token.endswith(WORD_END) or token in whole]
    commas = [end for end in ends if window[end - 1] == "," + WORD_END and end > len(window) * 2 / 3]
    return max(commas or ends or [len(window)])
