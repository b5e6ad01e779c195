"""What a call is told of after each step: the published pipelines' `callback_on_step_end`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from cascade_batch.api.scalars import texts_of
from cascade_batch.engine.sampler import OnStep
from cascade_batch.errors import SpecError
from cascade_batch.settings import values

Callback = Callable[[Any, int, float, dict[str, Tensor]], Mapping[str, Tensor] | None]
"""(the model, step number, time ratio, {"latents": ...}) to {"latents": ...} to go on with, or nothing."""
INPUTS = ("latents",)


def on_step_of(model: object, callback: Callback | None, inputs: Sequence[str] | None) -> OnStep | None:
    """What the denoising loop calls. Raises SpecError for inputs that are not known."""
    named = texts_of(inputs, "callback_on_step_end_tensor_inputs") if inputs else []
    if not set(named) <= set(INPUTS):
        raise SpecError("unknown callback_on_step_end_tensor_inputs", got=named, expected="latents")
    if callback is None:
        return None
    if not callable(callback):
        raise SpecError("no callback", where="callback_on_step_end", got=values.shown(callback))

    def on_step(step: int, time: float, latents: Tensor) -> Tensor:
        changed = callback(model, step, time, {"latents": latents} if named else {})
        return latents if changed is None else _latents_of(changed, latents)

    return on_step


def _latents_of(changed: Any, latents: Tensor) -> Tensor:
    """What a callback asks to go on with, instead of `latents`."""
    found = changed.get("latents", latents) if isinstance(changed, Mapping) else changed
    if not isinstance(found, Tensor) or found.shape != latents.shape:
        raise SpecError(
            "a callback that gives other latents",
            where="callback_on_step_end",
            got=values.shown(found),
            expected=f'None, or {{"latents": a tensor of {tuple(latents.shape)}}}',
        )
    return found.to(latents)
