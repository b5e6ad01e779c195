"""The text states that Stage C and B are conditioned on: a thin wrapper over the CLIP text tower.

Token states are the last layer's output without the final layer norm; the pooled state is the projection of
the end token after that norm. The attention mask is passed, as it was in training. Which token is the end is the
tokenizer's word: configs from before 2023 state another, and a file without one cannot tell it once tokens were added.

Two ways to go beyond that (`texts.TextOptions`), both off by default:

* Windows: a text with more tokens than the tower has room for is cut (`networks.windows`), each window is encoded as a
  text of its own, with start, end and padding, and the token states follow one another. Stage C attends to however many
  there are. Shorter texts of a batch are filled up with windows of the empty text. The pooled state is the first
  window's: it has to be that of one text, as in training, and a prompt names its subject first.
* Weights: a token of weight w gets the state empty + w * (state - empty), where empty is the state of the empty text
  at the same place; at weight 1 nothing is computed, so no bit changes. The pooled state is that of the text without
  weights. A token of several weights has that of its first character.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from cascade_batch.engine.networks.windows import cut
from cascade_batch.model.texts import PUBLISHED, TextOptions
from cascade_batch.model.weighting import pieces

if TYPE_CHECKING:  # seconds of a start, which pool BA has no use for
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

KEPT = 256
"""Windows whose states are kept for the next batches, 0.2 MB each in the published tower's bfloat16."""


@dataclass(frozen=True)
class TextStates:
    """What the networks see of a batch of texts, and what each text lost."""

    states: Tensor
    """(texts, 77 x the most windows, channels)"""
    pooled: Tensor
    """(texts, projection channels)"""
    tokens: list[int]
    """Tokens of each whole text, start and end included once."""
    truncated: list[bool]
    windows: list[int]
    """Windows that each text has of its own; `states` is filled up to the most of them."""


@dataclass(frozen=True)
class _Window:
    """One pass through the tower: its tokens, start and end included, and the weight of each."""

    ids: list[int]
    weights: list[float]


@dataclass(frozen=True)
class _Text:
    windows: list[_Window]
    tokens: int


class TextEncoder:
    """Tokenizer and text tower."""

    def __init__(
        self,
        tower: "CLIPTextModelWithProjection",
        tokenizer: "CLIPTokenizer",
        options: TextOptions = PUBLISHED,
    ) -> None:
        self._tower, self._tokenizer, self._options = tower, tokenizer, options
        self.length = min(tokenizer.model_max_length, tower.config.max_position_embeddings)
        self._passed = lru_cache(maxsize=KEPT)(self._pass)

    def encode(self, texts: Sequence[str]) -> TextStates:
        """States of `texts`, each padded, cut or filled up to equal length; "" is a text like any other.

        Every window passes the tower alone, and once for all texts of late that share it: so no bit of a text's states
        depends on the texts beside it.
        """
        *read, empty = self._read([*texts, ""])
        windows = _filled(read, empty)
        states, pooled = (torch.cat(parts) for parts in zip(*map(self._window, windows), strict=True))
        states = self._weighted(states, windows, empty)
        truncated = [text.tokens > self.length and self._truncates for text in read]
        return TextStates(
            states=states.reshape(len(read), -1, states.shape[-1]),
            pooled=pooled[:: len(windows) // len(read)],
            tokens=[text.tokens for text in read],
            truncated=truncated,
            windows=[len(text.windows) for text in read],
        )

    def evened(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Token states (texts, tokens, channels), the shorter ones filled up with those of the empty text."""
        tokens = max(a.shape[1], b.shape[1])
        return self._filled_up(a, tokens), self._filled_up(b, tokens)

    def _filled_up(self, states: Tensor, tokens: int) -> Tensor:
        missing = tokens - states.shape[1]
        if missing == 0:
            return states
        empty, _ = self._window(self._read([""])[0].windows[0])
        filling = empty.repeat(len(states), -(-missing // self.length), 1)[:, :missing]
        return torch.cat([states, filling.to(states.dtype)], dim=1)

    def windows(self, text: str) -> int:
        """How many windows a text takes; 1 unless long prompts are cut into windows."""
        return 1 if self._truncates else len(self._read([text])[0].windows)

    def pad(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Token ids and attention masks, (texts x the most windows, 77)."""
        *read, empty = self._read([*texts, ""])
        return self._padded(_filled(read, empty))

    def states(self, padded: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Token states (rows, 77, channels) and pooled states (rows, projection channels)."""
        ids = padded["input_ids"]
        output = self._tower(ids, attention_mask=padded["attention_mask"], output_hidden_states=True)
        end = cast(int, self._tokenizer.eos_token_id)
        ends = torch.eq(ids, end).int().argmax(dim=-1)  # the first: it may pad, too
        pooled = output.last_hidden_state[torch.arange(len(ids), device=ids.device), ends]
        return output.hidden_states[-1], self._tower.text_projection(pooled)

    def _window(self, window: _Window) -> tuple[Tensor, Tensor]:
        return self._passed(tuple(window.ids))

    def _pass(self, ids: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        return self.states(self._padded([_Window(list(ids), [])]))

    @property
    def _truncates(self) -> bool:
        return self._options.long_prompts == "truncate"

    def _read(self, texts: Sequence[str]) -> list[_Text]:
        """Tokenise each text as one string without its weights, so that these never change a token."""
        weighted = [pieces(text) if self._options.weighting else [(text, 1.0)] for text in texts]
        plain = ["".join(words for words, _ in text) for text in weighted]
        tokens = self._tokenizer(plain, verbose=False, return_offsets_mapping=True)
        return [
            self._cut(ids, _token_weights(text, offsets))
            for text, ids, offsets in zip(
                weighted, tokens["input_ids"], tokens["offset_mapping"], strict=True
            )
        ]

    def _cut(self, ids: list[int], weights: list[float]) -> _Text:
        (start, *ids, end), (_, *weights, _), room = ids, weights, self.length - 2
        if self._truncates or len(ids) <= room:
            slices = [slice(room)]
        else:
            names = self._tokenizer.convert_ids_to_tokens(ids)
            slices = cut(names, room, self._tokenizer.get_added_vocab())
        windows = [_Window([start, *ids[part], end], [1.0, *weights[part], 1.0]) for part in slices]
        return _Text(windows, len(ids) + 2)

    def _padded(self, windows: Sequence[_Window]) -> dict[str, Tensor]:
        pad = self._tokenizer.pad_token_id
        rows = [(window.ids, self.length - len(window.ids)) for window in windows]
        device = self._tower.device
        ids = [row + [pad] * missing for row, missing in rows]
        mask = [[1] * len(row) + [0] * missing for row, missing in rows]
        return {
            "input_ids": torch.tensor(ids, device=device),
            "attention_mask": torch.tensor(mask, device=device),
        }

    def _weighted(self, states: Tensor, windows: Sequence[_Window], empty: _Text) -> Tensor:
        if all(weight == 1 for window in windows for weight in window.weights):
            return states
        length = states.shape[1]
        padded = [window.weights + [1.0] * (length - len(window.weights)) for window in windows]
        weights = torch.tensor(padded, dtype=torch.float32, device=states.device).unsqueeze(-1)
        nothing = self._window(empty.windows[0])[0].float()
        moved = nothing + weights * (states.float() - nothing)
        return torch.where(weights == 1, states, moved.to(states.dtype))


def _filled(texts: Sequence[_Text], empty: _Text) -> list[_Window]:
    """The windows of all texts, equally many of each."""
    most = max(len(text.windows) for text in texts)
    return [window for text in texts for window in text.windows + empty.windows * (most - len(text.windows))]


def _token_weights(weighted: list[tuple[str, float]], offsets: list[tuple[int, int]]) -> list[float]:
    """The weight of each token, by where it starts in the text; start and end are nowhere and weigh 1."""
    characters = [weight for words, weight in weighted for _ in words]
    return [characters[start] if start < end else 1.0 for start, end in offsets]


def build_text_tower(config: dict) -> "CLIPTextModelWithProjection":
    """The text tower of a `config.json`, on torch's default device, with torch's fused attention."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    settings = CLIPTextConfig.from_dict(config)
    settings._attn_implementation = "sdpa"
    return CLIPTextModelWithProjection(settings)


def restore_buffers(tower: "CLIPTextModelWithProjection", device: str) -> None:
    """Make the buffers that no checkpoint holds, lost when a tower is built on the meta device."""
    positions = torch.arange(tower.config.max_position_embeddings, device=device).expand(1, -1)
    tower.text_model.embeddings.position_ids = nn.Buffer(positions, persistent=False)
