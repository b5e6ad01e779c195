"""A CLIP tokenizer in which each word of the world is one token, and any other text still has tokens."""

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from jobs.train_mini.captions import KNOWN_WORDS

LENGTH = 32


def make_tokenizer() -> CLIPTokenizer:
    """Every byte, alone and at a word's end, and each known word grown letter by letter.

    Merges apply in order of rank, so the words of others can tear a word apart; such words go first.
    """
    words = sorted(KNOWN_WORDS)
    while True:
        tokenizer = _grown(words)
        torn = [word for word in words if len(tokenizer.tokenize(word)) > 1]
        if not torn:
            return tokenizer
        words = [*torn, *(word for word in words if word not in torn)]


def _grown(words: list[str]) -> CLIPTokenizer:
    letters = sorted(ByteLevel.alphabet())
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        grown, *rest = [*word[:-1], word[-1] + "</w>"]
        for letter in rest:
            merges[grown, letter] = None
            grown += letter
    pieces = [*letters, *(letter + "</w>" for letter in letters), *(left + right for left, right in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(vocabulary, list(merges), model_max_length=LENGTH)  # pyright: ignore[reportArgumentType]
