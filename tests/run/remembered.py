"""Networks that count what they are asked for and remember what they answered.

Tests of crashes run the same few shards hundreds of times, and what they are about is storage. So each
batch is rendered once by the real networks, and equal batches get the same arrays again; that rendering twice
gives the same bytes is proven where drivers are killed for real.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest

from cascade_batch.engine.decoder import Decoder
from cascade_batch.engine.prior import Prior

_loaded: dict[tuple, Any] = {}
_answers: dict[tuple, Any] = {}


@dataclass
class Asked:
    """What the networks were asked for since the last `clear`: texts of Stage C, seeds of Stage B."""

    prompts: set[str] = field(default_factory=set)
    seeds: set[int] = field(default_factory=set)

    def clear(self) -> None:
        self.prompts.clear()
        self.seeds.clear()


def remember(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Replace loading and rendering of both engines for one test."""
    asked = Asked()
    for engine in (Prior, Decoder):
        load, render = engine.load, engine.render
        monkeypatch.setattr(engine, "load", classmethod(_loading(load)))
        monkeypatch.setattr(engine, "render", _rendering(render, asked))
    return asked


def _loading(load: Any) -> Any:
    def loaded(engine: type, parts: Any, dtype: str, device: str, *options: Any) -> Any:
        folders = sorted((name, str(part.folder)) for name, part in parts.items())
        key = (engine, dtype, device, str(options), *folders)
        if key not in _loaded:
            _loaded[key] = load(parts, dtype, device, *options)
        return _loaded[key]

    return loaded


def _rendering(render: Any, asked: Asked) -> Any:
    def rendered(engine: Any, batch: Any) -> Any:
        asked.prompts.update(getattr(batch, "prompts", ()))
        if not hasattr(batch, "prompts"):
            asked.seeds.update(batch.seeds)
        values = vars(batch).values()
        key = (id(engine), *(v.tobytes() if hasattr(v, "tobytes") else str(v) for v in values))
        if key not in _answers:
            _answers[key] = render(engine, batch)
        return _answers[key]

    return rendered
