"""The spec: one frozen tree that says everything about a run, with the published pipelines' defaults.

What stands under a key is its meaning, which `cascade-batch settings` prints.
"""

from dataclasses import dataclass, field

from cascade_batch.model.stages import PerPool

DEFAULT_MODEL = "mini"
AUTO_BATCH, PROBE_BATCH, DEFAULT_BATCH = "auto", "probe", 4


@dataclass(frozen=True, kw_only=True)
class PromptsSpec:
    uri: str = ""
    """The prompt table: one Parquet file, a folder, or a glob."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our column name -> the table's; a name that is not ours renames a carried column."""
    limit: int | None = None
    """Render only the first N prompts."""
    embeddings_from: str | None = None
    """A run or collection whose stored embeddings of equal keys are decoded; Stage C is not loaded. None: Stage C."""


@dataclass(frozen=True, kw_only=True)
class DtypeSpec(PerPool[str]):
    c: str = "auto"
    """Of Stage C and the text encoder: auto, float32 or bfloat16. auto is bfloat16 on a GPU and float32 on a CPU."""
    ba: str = "auto"
    """Of Stage B and A: auto, float32, bfloat16 or float16."""


@dataclass(frozen=True, kw_only=True)
class LoraSpec:
    uri: str
    """A safetensors file, of the official trainer, the community or PEFT, or a folder or repository with one."""
    weight: float = 1.0
    """How much of it: 0 is the model without it, 1 the model that its trainer meant."""
    alpha: float | None = None
    """Of its training; only for a file that does not tell, such as one of PEFT without its `adapter_config.json`."""
    tokens: dict[str, str] = field(default_factory=dict)
    """New token -> the word it starts from, for a file that brings tokens of its own."""


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    name: str = DEFAULT_MODEL
    """An embedded model's name, a folder in the diffusers layout, a hub id, or a URL."""
    stage_c: str | None = None
    """Stage C from elsewhere than `name`: a part's folder or file, a repository, or a subfolder of `name`."""
    stage_b: str | None = None
    """Stage B from elsewhere, likewise."""
    stage_a: str | None = None
    """Stage A from elsewhere, likewise."""
    text_encoder: str | None = None
    """The text encoder from elsewhere, likewise."""
    tokenizer: str | None = None
    """The tokenizer from elsewhere, likewise."""
    image_encoder: str | None = None
    """The CLIP image encoder from elsewhere, likewise; for tables with `image`."""
    effnet_encoder: str | None = None
    """The encoder of pictures into Stage C's latents from elsewhere, likewise; for tables with `init_image`."""
    controlnet: str | None = None
    """The ControlNet from elsewhere, likewise; for tables with `control_image`."""
    loras: tuple[LoraSpec, ...] = ()
    """Merged into Stage C and the text encoder, one after the other."""
    variant: str | None = None
    """File variant, as `bf16` in `diffusion_pytorch_model.bf16.safetensors`."""
    dtype: DtypeSpec = field(default_factory=DtypeSpec)
    """In what numbers the networks compute: one name for all of them, or one for each pool."""


@dataclass(frozen=True, kw_only=True)
class RenderSpec:
    """Defaults of rows that do not say otherwise; those of the published pipelines."""

    width: int = 1024
    """Pixels, a multiple of 8."""
    height: int = 1024
    """Pixels, a multiple of 8."""
    num_images: int = 1
    """Pictures of each prompt; the seed of picture i is the row's seed + i."""
    negative_prompt: str = ""
    """What the pictures are guided away from."""
    prior_steps: int = 20
    """Denoising steps of Stage C."""
    prior_guidance_scale: float = 4.0
    """Classifier-free guidance of Stage C; 1 or less is none."""
    decoder_steps: int = 10
    """Denoising steps of Stage B."""
    decoder_guidance_scale: float = 0.0
    """Classifier-free guidance of Stage B; 1 or less is none. If a spec does not say, it is the sampler preset's."""


@dataclass(frozen=True, kw_only=True)
class StageSamplerSpec:
    """What one stage does otherwise than the preset; the fields of `sampling.StageSampling`, None: as the preset."""

    method: str | None = None
    """ddpm, ddim (no noise added: half the steps do), or lcm, for distilled weights."""
    shift: float | None = None
    """Divides the signal's amplitude over the noise's: 2 spends more steps on what is where; 1 is none."""
    guidance_rescale: float | None = None
    """How much of the guided prediction gets the conditional one's standard deviation, 0 to 1."""
    guidance_end: float | None = None
    """Guidance scale at time 0, from the picture's own at time 1 in a straight line."""
    guidance_from: float | None = None
    """Guidance is on from this time ratio, 1 being pure noise ..."""
    guidance_to: float | None = None
    """... down to this one, 0 being the picture."""
    result: str | None = None
    """latents: what the last step leaves; clean: the last prediction of the clean latents."""
    ratio_of_signal: bool | None = None
    """Whether the network is told the time ratio of the signal that is there, instead of the step's own."""


@dataclass(frozen=True, kw_only=True)
class SamplerSpec:
    preset: str = "diffusers"
    """diffusers, what the published pipelines do, or original, what the notebooks of the original release do."""
    c: StageSamplerSpec = field(default_factory=StageSamplerSpec)
    """What Stage C does otherwise than the preset; null: as the preset."""
    ba: StageSamplerSpec = field(default_factory=StageSamplerSpec)
    """What Stage B does otherwise than the preset; null: as the preset."""
    stage_a_scale: float | None = None
    """Factor on Stage B's latents; None: the preset's, else the checkpoint's."""
    stage_a_tile: int | None = None
    """Side in pixels of the parts that Stage A decodes, for pictures beyond a card's memory; changes last bits."""


@dataclass(frozen=True, kw_only=True)
class TextSpec:
    """How prompts and negative prompts are read; the fields of `texts.TextOptions`."""

    long_prompts: str = "truncate"
    """truncate, or windows: texts of any length, encoded in windows of what the text tower has room for."""
    weighting: bool = False
    """Whether `(word:1.3)`, `(word)` and `[word]` in a text are weights, rather than text."""


@dataclass(frozen=True, kw_only=True)
class ShardsSpec:
    prompts: int = 64
    """Prompts of one shard at most: the unit of work that is committed, and gone on from."""
    images: int = 256
    """Pictures of one shard at most; a prompt of more is spread over several."""


@dataclass(frozen=True, kw_only=True)
class PoolSpec:
    actors: int | None = None
    """None: from what the cluster has, or 1 where `max_actors` is given."""
    max_actors: int | None = None
    """What the pool may grow to while shards wait and the cluster has room; None: it stays as it is."""
    gpus: float | None = None
    """GPU share of one actor; 0 makes a CPU pool. None: from what the cluster has."""
    batch: int | str = AUTO_BATCH
    """Images per forward; part of the numerics, fixed at a run's first use. `auto`: each kind of accelerator measures
    which batch of each picture size is fastest within its memory, and a CPU takes 4; `probe`: a CPU measures too."""
    threads: int | None = None
    """CPU threads of one actor; None: twice its part of the cores, which it has while others wait."""


@dataclass(frozen=True, kw_only=True)
class PoolsSpec(PerPool[PoolSpec]):
    c: PoolSpec = field(default_factory=PoolSpec)
    """The workers of the text encoder and Stage C."""
    ba: PoolSpec = field(default_factory=PoolSpec)
    """The workers of Stage B and Stage A."""
    rates_from: str | None = None
    """An earlier run of like pictures, whose seconds per image split the GPUs where `actors` are open; None: FLOPs."""


@dataclass(frozen=True, kw_only=True)
class OutputSpec:
    uri: str = ""
    """The run's folder or bucket prefix."""
    png_level: int = 6
    """libdeflate's level for the PNGs, 0 to 12: 8 takes up to five times as long as 6 for up to 8 % fewer bytes."""


@dataclass(frozen=True, kw_only=True)
class LimitsSpec:
    failed_rows: int | None = None
    """Stop once more rows than this have failed in the whole run; None: never."""
    attempts: int = 3
    """Worker deaths that one prompt may cost; the last attempt runs its shard one prompt at a time."""
    picture_pixels: int = 2**26
    """Larger pictures of the prompt table fail their rows unread: a few kilobytes of PNG can unpack to any size."""


@dataclass(frozen=True, kw_only=True)
class LogSpec:
    level: str = "info"
    """debug, info, warning or error."""
    format: str = "text"
    """text, or json: one object a line."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    seed: int = 0
    """Run seed, for rows without a seed of their own."""
    prompts: PromptsSpec = field(default_factory=PromptsSpec)
    """The prompt table, and how its columns are called."""
    model: ModelSpec = field(default_factory=ModelSpec)
    """The weights."""
    render: RenderSpec = field(default_factory=RenderSpec)
    """Defaults of rows that do not say otherwise; those of the published pipelines."""
    sampler: SamplerSpec = field(default_factory=SamplerSpec)
    """How both stages are sampled."""
    text: TextSpec = field(default_factory=TextSpec)
    """How prompts and negative prompts are read."""
    shards: ShardsSpec = field(default_factory=ShardsSpec)
    """How the table is cut into units of work."""
    pools: PoolsSpec = field(default_factory=PoolsSpec)
    """The workers."""
    output: OutputSpec = field(default_factory=OutputSpec)
    """Where the run goes."""
    limits: LimitsSpec = field(default_factory=LimitsSpec)
    """What a run bears; a resume may change it."""
    log: LogSpec = field(default_factory=LogSpec)
    """What is said on the way; a resume may change it."""
