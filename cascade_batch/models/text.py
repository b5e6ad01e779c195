"""The text states that Stage C and B are conditioned on: a thin wrapper over the CLIP text tower.

Token states are the last layer's output without the final layer norm; the pooled state is the projection of
the end token after that norm. The attention mask is passed, as it was in training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import BatchEncoding, CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer


@dataclass(frozen=True)
class TextStates:
    """What the networks see of a batch of texts, and what each text lost."""

    states: Tensor
    """(texts, 77, channels)"""
    pooled: Tensor
    """(texts, projection channels)"""
    tokens: list[int]
    """Tokens of each whole text, start and end included."""
    truncated: list[bool]


class TextEncoder:
    """Tokenizer and text tower."""

    def __init__(self, tower: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer) -> None:
        self._tower, self._tokenizer = tower, tokenizer
        self.length = min(tokenizer.model_max_length, tower.config.max_position_embeddings)

    def encode(self, texts: Sequence[str]) -> TextStates:
        """States of `texts`, each padded or cut to the tower's length; "" is a text like any other."""
        texts = list(texts)
        tokens = [len(ids) for ids in self._tokenizer(texts, verbose=False)["input_ids"]]
        truncated = [count > self.length for count in tokens]
        return TextStates(*self.states(self.pad(texts)), tokens, truncated)

    def evened(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Token states (texts, tokens, channels), the shorter ones filled up with those of the empty text."""
        tokens = max(a.shape[1], b.shape[1])
        return self._filled(a, tokens), self._filled(b, tokens)

    def _filled(self, states: Tensor, tokens: int) -> Tensor:
        missing = tokens - states.shape[1]
        if missing == 0:
            return states
        empty, _ = self.states(self.pad([""]))
        filling = empty.repeat(len(states), -(-missing // self.length), 1)[:, :missing]
        return torch.cat([states, filling.to(states.dtype)], dim=1)

    def pad(self, texts: Sequence[str]) -> BatchEncoding:
        """Token ids and attention masks (texts, 77)."""
        return self._tokenizer(
            list(texts), padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        ).to(self._tower.device)

    def states(self, padded: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Token states (texts, 77, channels) and pooled states (texts, projection channels)."""
        output = self._tower(
            padded["input_ids"], attention_mask=padded["attention_mask"], output_hidden_states=True
        )
        return output.hidden_states[-1], output.text_embeds


def build_text_tower(config: dict) -> CLIPTextModelWithProjection:
    """The text tower of a `config.json`, on torch's default device, with torch's fused attention."""
    settings = CLIPTextConfig.from_dict(config)
    settings._attn_implementation = "sdpa"
    return CLIPTextModelWithProjection(settings)


def restore_buffers(tower: CLIPTextModelWithProjection, device: str) -> None:
    """Make the buffers that no checkpoint holds, lost when a tower is built on the meta device."""
    positions = torch.arange(tower.config.max_position_embeddings, device=device).expand(1, -1)
    tower.text_model.embeddings.position_ids = nn.Buffer(positions, persistent=False)
