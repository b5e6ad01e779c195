"""Every place that tells a LoRA's strength is read, none is guessed, and what cannot be honoured is refused by name."""

import json
import math
from typing import Any

import pytest

from cascade_batch.errors import WeightsError
from cascade_batch.model.layouts.lora_layouts import Change, changes_of
from cascade_batch.model.layouts.lora_strength import strengths
from tests.model.published import Shapes, published_shapes

TEXT = "text_model.encoder.layers.0.mlp.fc1"
NETWORKS = {"stage_c": published_shapes("stage_c"), "text_encoder": {f"{TEXT}.weight": (5120, 1280)}}
Q, K = "down_blocks.0.2.attention.to_q", "down_blocks.0.2.attention.to_k"


def changes(
    *bases: str, halves: tuple[str, str] = ("lora_A", "lora_B"), **more: tuple[int, ...]
) -> list[Change]:
    lora: Shapes = {}
    for base in bases:
        rows, columns = (5120, 1280) if base.endswith(TEXT) else (2048, 2048)
        lora |= {f"{base}.{halves[0]}.weight": (8, columns), f"{base}.{halves[1]}.weight": (rows, 8)}
    return changes_of(lora | {f"{bases[0]}.{role}": shape for role, shape in more.items()}, NETWORKS, "x")


def told(
    found: list[Change], notes: dict[str, str] | None = None, config: dict[str, Any] | None = None,
    stated: float | None = None,
) -> list[float | None]:  # fmt: skip
    return strengths(found, notes or {}, config, stated, "x.safetensors")


PEFT = changes(f"base_model.model.{Q}", f"base_model.model.{K}")
DIFFUSERS = changes(f"unet.{Q}", f"text_encoder.{TEXT}")


@pytest.mark.parametrize(
    ("settings", "scales"),
    [
        ({"r": 8, "lora_alpha": 16}, [2, 2]),
        ({"r": 8, "lora_alpha": -4}, [-0.5, -0.5]),
        ({"lora_alpha": 16}, [2, 2]),
        ({"r": 8, "lora_alpha": 16, "use_rslora": True}, [16 / math.sqrt(8)] * 2),
        ({"r": 8, "lora_alpha": 16, "alpha_pattern": {"to_k": 4}}, [2, 0.5]),
        ({"r": 8, "lora_alpha": 16, "alpha_pattern": {r"down_blocks\.\d+.*to_q": 4}}, [0.5, 2]),
        ({"r": 4, "lora_alpha": 16, "rank_pattern": {"to_q": 8, "to_k": 8}}, [2, 2]),
        ({"r": 8, "alpha": 16, "peft_type": "LOHA"}, [2, 2]),
    ],
)
def test_settings_of_an_adapter_wherever_they_are(settings: dict[str, Any], scales: list[float]) -> None:
    assert told(PEFT, config=settings) == scales
    assert told(PEFT, {"lora_adapter_metadata": json.dumps(settings)}) == scales
    assert told(PEFT, {"peft_config": json.dumps(settings)}, settings) == scales
    single = {key: value for key, value in settings.items() if key != "peft_type"}
    assert (
        told(
            PEFT,
            {key: value if isinstance(value, str) else json.dumps(value) for key, value in single.items()},
        )
        == scales
    )


def test_diffusers_metadata_is_each_networks_own() -> None:
    settings = {"unet.r": 8, "unet.lora_alpha": 4, "text_encoder.r": 8, "text_encoder.lora_alpha": 8}
    settings |= {"text_encoder.use_rslora": True}
    assert told(DIFFUSERS, {"lora_adapter_metadata": json.dumps(settings)}) == [0.5, 8 / math.sqrt(8)]
    half = {"lora_adapter_metadata": json.dumps({"unet.r": 8, "unet.lora_alpha": 4})}
    with pytest.raises(WeightsError, match=f"nothing tells how strong.*\n.*\n.*{TEXT}"):
        told(DIFFUSERS, half)
    assert told(DIFFUSERS, half, stated=16) == [0.5, 2]


def test_kohyas_notes_give_way_to_its_tensors() -> None:
    notes = {"ss_network_alpha": "4.0", "ss_network_dim": "8", "ss_scale_weight_norms": "1.0"}
    with_alpha = changes(f"lora_unet_{Q}".replace(".", "_"), halves=("lora_down", "lora_up"), alpha=())
    without = changes(f"lora_unet_{Q}".replace(".", "_"), halves=("lora_down", "lora_up"))
    assert told(with_alpha, notes) == [None]
    assert told(without, notes) == [0.5]
    assert told(without, {"ss_network_alpha": "None", "ss_network_dim": "Dynamic"}) == [None]
    assert told(without) == [None]
    assert without[0].scale(None) == 1.0


@pytest.mark.parametrize(
    ("base", "halves"),
    [
        (f"base_model.model.{Q}", ("lora_A", "lora_B")),
        (Q, ("lora_A.default", "lora_B.default")),
        (Q, ("lora_A", "lora_B")),
    ],
)
def test_peft_without_its_alpha_is_refused_until_it_is_stated(base: str, halves: tuple[str, str]) -> None:
    found = changes(base, halves=halves)
    for config in (None, {"r": 8}):
        with pytest.raises(WeightsError, match=r"(?s)nothing tells how strong this LoRA is.*alpha=16"):
            told(found, config=config)
    assert told(found, stated=4) == [0.5]


@pytest.mark.parametrize("prefix", ["lora_unet_", "unet.", "base_model.model.", ""])
def test_lycoris_without_its_alpha_is_refused(prefix: str) -> None:
    base = prefix + (Q.replace(".", "_") if prefix.endswith("_") else Q)
    factors = {"hada_w1_a": (2048, 4), "hada_w1_b": (4, 2048), "hada_w2_a": (2048, 4), "hada_w2_b": (4, 2048)}
    found = changes_of({f"{base}.{name}": shape for name, shape in factors.items()}, NETWORKS, "x")
    with pytest.raises(WeightsError, match="nothing tells how strong"):
        told(found)
    assert told(found, stated=2) == [0.5]


def test_diffusers_without_metadata_is_alpha_equal_to_rank() -> None:
    assert told(DIFFUSERS) == [None, None]
    assert told(DIFFUSERS, stated=16) == [2, 2]


@pytest.mark.parametrize("config", [{"lora_alpha": 8}, None])
def test_an_alpha_that_is_not_needed_is_refused(config: dict[str, Any] | None) -> None:
    found = PEFT if config else changes(f"lora_unet_{Q}", halves=("lora_down", "lora_up"), alpha=())
    with pytest.raises(WeightsError, match="tells its alpha itself"):
        told(found, config=config, stated=4)


def test_places_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(WeightsError, match="told twice"):
        told(PEFT, {"lora_adapter_metadata": '{"r": 8, "lora_alpha": 8}'}, {"r": 8, "lora_alpha": 16})
    with pytest.raises(WeightsError, match="not those of its tensors"):
        told(PEFT, config={"r": 4, "lora_alpha": 16})


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("peft_type", "ADALORA"),
        ("peft_type", "OFT"),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "olora"),
        ("layer_replication", [[0, 4], [2, 6]]),
        ("target_parameters", ["experts.gate"]),
        ("trainable_token_indices", [5]),
        ("alora_invocation_tokens", [5]),
        ("use_qalora", True),
        ("use_dora", True),
        ("a_setting_of_tomorrow", 1),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(setting: str, value: object) -> None:
    with pytest.raises(WeightsError, match=f"{setting} = "):
        told(PEFT, config={"r": 8, "lora_alpha": 8, setting: value})
    with pytest.raises(WeightsError, match=f"{setting} = "):
        told(
            DIFFUSERS, {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 8, f"unet.{setting}": value})}
        )


def test_a_magnitude_that_its_settings_do_not_know_is_refused() -> None:
    with_magnitude = changes(f"base_model.model.{Q}", lora_magnitude_vector=(2048,))
    assert told(with_magnitude, config={"lora_alpha": 8, "use_dora": True}) == [1]
    with pytest.raises(WeightsError, match="use_dora = 'False, with a magnitude"):
        told(with_magnitude, config={"lora_alpha": 8, "use_dora": False})


@pytest.mark.parametrize(
    "settings",
    [
        '{"lora_alpha": NaN}', '{"lora_alpha": Infinity}', '{"lora_alpha": "16"}', '{"lora_alpha": true}',
        '{"lora_alpha": 8, "r": 0}', '{"lora_alpha": 8, "r": 1.5}', '{"lora_alpha": 8, "alpha_pattern": {"(": 1}}',
        '{"lora_alpha": 8, "alpha_pattern": {"to_q": null}}', '{"lora_alpha": 8, "rank_pattern": [1]}', "[]", "no JSON",
    ],
)  # fmt: skip
def test_settings_that_cannot_be_read(settings: str) -> None:
    with pytest.raises(WeightsError, match="cannot be read"):
        told(PEFT, {"lora_adapter_metadata": settings})


def test_what_has_no_alpha_asks_for_none() -> None:
    official = changes_of({"weights.0.lora_down": (4, 2048), "weights.0.lora_up": (2048, 4)}, NETWORKS, "x")
    whole = changes_of({f"base_model.model.{Q}.weight": (2048, 2048)}, NETWORKS, "x")
    assert told(official, {"lora_alpha": "2"}) == told(whole, config={"lora_alpha": 2}) == [None]
    assert official[0].scale(None) == 0.25


def test_lokr_of_whole_matrices_takes_its_rank_from_the_settings() -> None:
    whole = {"lokr_w1": (32, 32), "lokr_w2": (64, 64)}
    peft = changes_of({f"base_model.model.{Q}.{key}": shape for key, shape in whole.items()}, NETWORKS, "x")
    lycoris = changes_of(
        {f"unet.{Q}.{key}": shape for key, shape in whole.items()} | {f"unet.{Q}.alpha": ()}, NETWORKS, "x"
    )
    assert told(peft, config={"peft_type": "LOKR", "r": 4, "alpha": 8}) == [2]
    with pytest.raises(WeightsError, match="nothing tells how strong"):
        told(peft)
    assert told(lycoris) == [None]
    assert lycoris[0].scale(1e10) == 1.0, "as LyCORIS reads it: its own alpha is then the unknown rank"
