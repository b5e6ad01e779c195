"""A CLIP tokenizer in which each word of the world is one token, and any other text still has tokens."""

from transformers import CLIPTokenizer

from jobs.model_folder import clip_tokenizer
from jobs.train_mini.captions import KNOWN_WORDS

LENGTH = 32


def make_tokenizer() -> CLIPTokenizer:
    """Merges apply in order of rank, so the words of others can tear a word apart; such words go first."""
    words = sorted(KNOWN_WORDS)
    while True:
        tokenizer = clip_tokenizer(words, LENGTH)
        torn = [word for word in words if len(tokenizer.tokenize(word)) > 1]
        if not torn:
            return tokenizer
        words = [*torn, *(word for word in words if word not in torn)]
