"""A model in this process. The engine is the batch workers' own, so equal calls give equal pictures.

Argument names and their meaning are those of the published pipelines; what these do not have stands behind `*`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cascade_batch import weights
from cascade_batch.api import arguments as args
from cascade_batch.api.conditions import Asked, conditions_of
from cascade_batch.api.outputs import (
    IMAGE_TYPES,
    PRIOR_TYPES,
    ImagesOutput,
    PriorOutput,
    as_images,
    check_type,
    prior_output,
)
from cascade_batch.batches import DecoderBatch, PriorBatch
from cascade_batch.cascade import Decoder, Prior
from cascade_batch.devices import pick_device
from cascade_batch.errors import SpecError
from cascade_batch.geometry import check_sides
from cascade_batch.models.sampler import Generators, OnStep
from cascade_batch.spec import Spec, sampling_of, spec_from_dict, text_options_of
from cascade_batch.stage_keys import STAGE_BA_PARTS, STAGE_C_PARTS
from cascade_batch.weights import OPTIONAL
from cascade_batch.workers.parts import local_files, local_loras

Callback = Callable[["Cascade", int, float, dict[str, Tensor]], Mapping[str, Tensor] | None]
"""(this, step number, time ratio, {"latents": ...}) to {"latents": ...} to go on with, or nothing."""
INPUTS = ("latents",)


class Cascade:
    """Text to embeddings (`prior`), embeddings to pictures (`decode`), or both (`render`)."""

    def __init__(self, spec: Spec, device: str, low_memory: bool = False) -> None:
        """Use `load`."""
        self._spec, self._device, self._low_memory = spec, device, low_memory
        self.sampling = sampling_of(spec.sampler)
        given = [name for name in OPTIONAL if getattr(spec.model, name)]
        self._located = weights.locate(spec.model, given)
        self._loras = weights.locate_loras(spec.model, self._located)
        self._prior: Prior | None = None
        self._decoder: Decoder | None = None

    @classmethod
    def load(
        cls,
        model: str = "mini",
        *,
        device: str = "auto",
        sampler: str = "diffusers",
        text: Mapping[str, Any] | None = None,
        low_memory: bool = False,
        **parts: Any,
    ) -> "Cascade":
        """A model by the name, folder, file or URL that the command line takes; weights are read at first use.

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
        spec = spec_from_dict(
            {"model": {"name": model, **parts}, "sampler": chosen, "text": dict(text or {})}
        )
        return cls(spec, pick_device() if device == "auto" else device, low_memory)

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
        engine, copies = self._get_prior(), num_images_per_prompt
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
        pooled, negative = self._pooled(
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
        engine = self._get_decoder()
        drawn = engine.latents(batch, generators, on_step)
        if output_type == "latent":
            output = ImagesOutput(drawn)
        else:
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

    def _pooled(self, asked: tuple, avoided: tuple, images: int) -> tuple[np.ndarray, np.ndarray]:
        """Pooled states of the prompts and negative prompts of `decode`, one per image: given ones, else encoded."""
        (prompt, embeds, pooled), (negative, negative_embeds, negative_pooled) = asked, avoided
        if embeds is not None and pooled is None:
            raise SpecError(
                "the decoder sees only pooled states", got="prompt_embeds", expected="prompt_embeds_pooled"
            )
        if negative_embeds is not None and negative_pooled is None:
            raise SpecError(
                "the decoder sees only pooled states",
                got="negative_prompt_embeds",
                expected="negative_prompt_embeds_pooled",
            )
        prompts = args.prompts_of(prompt, pooled)
        if images % len(prompts):
            raise SpecError(
                "embeddings do not match the prompts",
                got=f"{images} images",
                expected=f"a multiple of {len(prompts)}",
            )
        negatives = args.negatives_of(negative, negative_pooled, len(prompts))
        copies = images // len(prompts)
        found = args.states_of(pooled, 2, len(prompts), copies, "prompt_embeds_pooled")
        found_negative = args.states_of(
            negative_pooled, 2, len(prompts), copies, "negative_prompt_embeds_pooled"
        )
        if found is None or found_negative is None:
            written = self._get_prior().pooled([*prompts, *negatives])
            found = np.repeat(written[: len(prompts)], copies, 0) if found is None else found
            if found_negative is None:
                found_negative = np.repeat(written[len(prompts) :], copies, 0)
        return found, found_negative

    def _get_prior(self) -> Prior:
        if self._prior is None:
            self._make_room()
            names = [*STAGE_C_PARTS, *(name for name in OPTIONAL if name in self._located)]
            parts = {name: local_files(self._located[name]) for name in names}
            loras = local_loras(self._spec.model, self._loras)
            dtype, options = self._dtype(self._spec.model.dtype.c), text_options_of(self._spec.text)
            self._prior = Prior.load(parts, dtype, self._device, loras, options)
        return self._prior

    def _get_decoder(self) -> Decoder:
        if self._decoder is None:
            self._make_room()
            parts = {name: local_files(self._located[name]) for name in STAGE_BA_PARTS}
            self._decoder = Decoder.load(parts, self._dtype(self._spec.model.dtype.ba), self._device)
        return self._decoder

    def _make_room(self) -> None:
        """In low memory, drop the other stage before one is loaded."""
        if self._low_memory:
            self._prior = self._decoder = None
            torch.cuda.empty_cache()  # does nothing where there is no card

    def _dtype(self, wanted: str) -> str:
        return wanted if wanted != "auto" else "float32" if self._device == "cpu" else "bfloat16"

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
