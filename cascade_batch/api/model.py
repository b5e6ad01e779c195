"""A model in this process. The engine is the batch workers' own, so equal calls give equal pictures.

Argument names and their meaning are those of the published pipelines; what these do not have stands behind `*`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cascade_batch.api import arguments as args
from cascade_batch.api.conditions import Asked, conditions_of, pooled_of
from cascade_batch.api.outputs import (
    IMAGE_TYPES,
    PRIOR_TYPES,
    ImagesOutput,
    PriorOutput,
    as_images,
    check_type,
    prior_output,
)
from cascade_batch.api.stages import Stages
from cascade_batch.batches import DecoderBatch, PriorBatch
from cascade_batch.devices import pick_device
from cascade_batch.errors import SpecError
from cascade_batch.geometry import check_sides
from cascade_batch.models.sampler import Generators, OnStep
from cascade_batch.sampling import Sampling
from cascade_batch.spec import sampling_of, spec_from_dict

Callback = Callable[["Cascade", int, float, dict[str, Tensor]], Mapping[str, Tensor] | None]
"""(this, step number, time ratio, {"latents": ...}) to {"latents": ...} to go on with, or nothing."""
INPUTS = ("latents",)


class Cascade:
    """Text to embeddings (`prior`), embeddings to pictures (`decode`), or both (`render`)."""

    def __init__(self, stages: Stages, sampling: Sampling) -> None:
        """Use `load`."""
        self._stages, self.sampling = stages, sampling

    @classmethod
    def load(
        cls,
        model: str = "mini",
        *,
        device: str = "auto",
        sampler: str | Mapping[str, Any] = "diffusers",
        text: Mapping[str, Any] | None = None,
        low_memory: bool = False,
        **parts: Any,
    ) -> "Cascade":
        """A model by the name, folder, file or URL that the command line takes; weights are read at first use.

        One published repository is enough for its half: `prior` alone, or `decode` alone, without Stage C in memory.

        Args:
            device: such as "cpu" or "cuda:1"; "auto" takes the accelerator if there is one.
            sampler: a preset, or a tree of the spec's `sampler` keys.
            text: keys of the spec's `text`, such as {"weighting": True}; long prompts of one call get as many windows
                as the longest.
            low_memory: hold one stage at a time, so that a card needs room for the larger one only.
            parts: keys of the spec's `model`: `stage_c`, `image_encoder`, `loras`, `variant`, `dtype` ...

        Raises:
            SpecError, WeightsError: an unknown key, or a part that is not there.
        """
        chosen = {"preset": sampler} if isinstance(sampler, str) else dict(sampler)
        tree = {"model": {"name": model, **parts}, "sampler": chosen, "text": dict(text or {})}
        spec = spec_from_dict(tree)
        stages = Stages(spec, pick_device() if device == "auto" else device, low_memory)
        return cls(stages, sampling_of(spec.sampler))

    def prior(
        self,
        prompt: args.Texts = None,
        images: Any = None,
        height: int = 1024,
        width: int = 1024,
        num_inference_steps: int = 20,
        timesteps: Sequence[float] | None = None,
        guidance_scale: float | Sequence[float] = 4.0,
        negative_prompt: args.Texts = None,
        prompt_embeds: args.Array | None = None,
        prompt_embeds_pooled: args.Array | None = None,
        negative_prompt_embeds: args.Array | None = None,
        negative_prompt_embeds_pooled: args.Array | None = None,
        image_embeds: args.Array | None = None,
        num_images_per_prompt: int = 1,
        generator: Generators | None = None,
        latents: args.Array | None = None,
        output_type: str = "pt",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = INPUTS,
        *,
        seed: args.Seeds = None,
        **conditions: Any,
    ) -> PriorOutput | tuple:
        """Embeddings of prompts; image i of prompt p is entry p · num_images_per_prompt + i.

        Args:
            images, image_embeds: pictures to vary, one or several; the same for all prompts, or a list for each.
            seed: of the first image, later ones counting up, or one each, as a prompt table's; instead of `generator`.
            conditions: `init_image`, a picture to start from; `strength`, the share of noise it gets (0.8, or 1 with a
                mask); `mask`, white where to paint anew; `control_image` and `control_strength`, what the model's
                ControlNet follows; `sca` and `crp`, numbers beside the time ratio.

        Raises:
            SpecError: arguments that do not go together or do not fit the model.
        """
        check_type(output_type, PRIOR_TYPES)
        check_sides(height, width)
        prompts = args.prompts_of(prompt, prompt_embeds)
        negatives = args.negatives_of(negative_prompt, negative_prompt_embeds, len(prompts))
        engine, copies = self._stages.prior(), num_images_per_prompt
        asked = Asked(len(prompts), copies, height, width, engine.image_size)
        seeds, generators = args.drawn_by(generator, seed, asked.images)
        batch = PriorBatch(
            prompts=[text for text in prompts for _ in range(copies)],
            negative_prompts=[text for text in negatives for _ in range(copies)],
            seeds=seeds,
            height=height,
            width=width,
            steps=num_inference_steps,
            guidance=args.scales_of(guidance_scale, asked.images),
            sampling=self.sampling.c,
            conditions=conditions_of(
                asked,
                images=images,
                image_embeds=image_embeds,
                prompt_embeds=prompt_embeds,
                prompt_embeds_pooled=prompt_embeds_pooled,
                negative_prompt_embeds=negative_prompt_embeds,
                negative_prompt_embeds_pooled=negative_prompt_embeds_pooled,
                latents=latents,
                timesteps=timesteps,
                **conditions,
            ),
        )
        texts = engine.encode(batch)
        on_step = self._on_step(callback_on_step_end, callback_on_step_end_tensor_inputs)
        embeddings = engine.embed(batch, texts, generators, on_step)
        output = prior_output(embeddings, texts, asked.images).as_type(output_type)
        return output if return_dict else output.to_tuple()

    def decode(
        self,
        image_embeddings: args.Array | Sequence[args.Array],
        prompt: args.Texts = None,
        num_inference_steps: int = 10,
        guidance_scale: float | Sequence[float] | None = None,
        negative_prompt: args.Texts = None,
        prompt_embeds: args.Array | None = None,
        prompt_embeds_pooled: args.Array | None = None,
        negative_prompt_embeds: args.Array | None = None,
        negative_prompt_embeds_pooled: args.Array | None = None,
        num_images_per_prompt: int = 1,
        generator: Generators | None = None,
        latents: args.Array | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = INPUTS,
        *,
        height: int | None = None,
        width: int | None = None,
        timesteps: Sequence[float] | None = None,
        seed: args.Seeds = None,
        tile: int | None = None,
    ) -> ImagesOutput | tuple:
        """Pictures of embeddings: `num_images_per_prompt` of each, one after the other.

        Only the pooled text state is seen. Embeddings are dealt to the prompts evenly, in order.

        Args:
            guidance_scale: None is the sampler preset's.
            height, width: pixels; None is what the embeddings were made for, rounded up to a multiple of 8.
            tile: side in pixels of the parts that Stage A decodes at a time, for pictures beyond memory.

        Raises:
            SpecError: arguments that do not go together or do not fit the model.
        """
        check_type(output_type, IMAGE_TYPES)
        embeddings = args.joined(image_embeddings)
        height, width = (
            height or args.pixels_of(embeddings.shape[2]),
            width or args.pixels_of(embeddings.shape[3]),
        )
        check_sides(height, width)
        copies, count = num_images_per_prompt, len(embeddings) * num_images_per_prompt
        seeds, generators = args.drawn_by(generator, seed, count)
        scale = self.sampling.decoder_guidance_scale if guidance_scale is None else guidance_scale
        pooled, negative = pooled_of(
            self._stages.pooled,
            (prompt, prompt_embeds, prompt_embeds_pooled),
            (negative_prompt, negative_prompt_embeds, negative_prompt_embeds_pooled),
            count,
        )
        batch = DecoderBatch(
            embeddings=np.repeat(embeddings, copies, axis=0),
            pooled=pooled,
            negative_pooled=negative,
            seeds=seeds,
            height=height,
            width=width,
            steps=num_inference_steps,
            guidance=args.scales_of(scale, count),
            sampling=self.sampling.ba,
            latents=None if latents is None else args.to_array(latents),
            timesteps=args.times_of(timesteps),
        )
        on_step = self._on_step(callback_on_step_end, callback_on_step_end_tensor_inputs)
        engine = self._stages.decoder()
        drawn = engine.latents(batch, generators, on_step)
        if output_type == "latent":
            output = ImagesOutput(drawn)
        else:
            tile = tile or self.sampling.stage_a_tile
            parts = [engine.decode(one, self.sampling.stage_a_scale, tile) for one in drawn.split(1)]
            output = ImagesOutput(as_images(torch.cat(parts), output_type))
        return output if return_dict else (output.images,)

    def render(
        self,
        prompt: args.Texts = None,
        images: Any = None,
        height: int = 1024,
        width: int = 1024,
        prior_num_inference_steps: int = 20,
        prior_guidance_scale: float | Sequence[float] = 4.0,
        num_inference_steps: int = 10,
        decoder_guidance_scale: float | Sequence[float] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        prior_callback_on_step_end: Callback | None = None,
        callback_on_step_end: Callback | None = None,
        *,
        generator: Generators | None = None,
        seed: args.Seeds = None,
        prior_timesteps: Sequence[float] | None = None,
        decoder_timesteps: Sequence[float] | None = None,
        decoder_latents: args.Array | None = None,
        tile: int | None = None,
        **conditions: Any,
    ) -> ImagesOutput | tuple:
        """Pictures of prompts: `prior`, then `decode`, at the sizes and steps of both.

        `conditions` are any others of `prior`'s arguments. Generators go on from the first stage into the second; a
        `seed` begins each stage anew, as rows of a prompt table do.
        """
        check_type(output_type, IMAGE_TYPES)
        self._stages.check_whole()
        if seed is None and generator is None:
            count = len(args.prompts_of(prompt, conditions.get("prompt_embeds")))
            seed = args.drawn_by(None, None, count * conditions.get("num_images_per_prompt", 1))[0]
        made = self.prior(
            prompt,
            images,
            height,
            width,
            prior_num_inference_steps,
            prior_timesteps,
            prior_guidance_scale,
            generator=generator,
            seed=seed,
            callback_on_step_end=prior_callback_on_step_end,
            **conditions,
        )
        assert isinstance(made, PriorOutput)
        return self.decode(
            made.image_embeddings,
            None,
            num_inference_steps,
            decoder_guidance_scale,
            prompt_embeds_pooled=made.prompt_embeds_pooled,
            negative_prompt_embeds_pooled=made.negative_prompt_embeds_pooled,
            generator=generator,
            seed=seed,
            latents=decoder_latents,
            output_type=output_type,
            return_dict=return_dict,
            callback_on_step_end=callback_on_step_end,
            height=height,
            width=width,
            timesteps=decoder_timesteps,
            tile=tile,
        )

    def _on_step(self, callback: Callback | None, inputs: Sequence[str]) -> OnStep | None:
        if not set(inputs) <= set(INPUTS):
            raise SpecError(
                "unknown callback_on_step_end_tensor_inputs", got=list(inputs), expected="latents"
            )
        if callback is None:
            return None

        def on_step(step: int, time: float, latents: Tensor) -> Tensor:
            changed = callback(self, step, time, {"latents": latents} if inputs else {})
            return latents if changed is None else changed.get("latents", latents)

        return on_step
