"""Stage keys: a literal that must never move, and what else must tell two embeddings apart."""

from cascade_batch.model.sampling import StageSampling
from cascade_batch.model.texts import TextOptions
from cascade_batch.run.stage_keys import stage_c_key

REQUEST = {
    "conditions": None,
    "prompt": "a red circle",
    "negative_prompt": "",
    "seed": 7,
    "height": 256,
    "width": 256,
    "prior_steps": 20,
    "prior_guidance_scale": 4.0,
}
WEIGHTS = {"stage_c": "c", "text_encoder": "t", "tokenizer": "k"}


def key(*text: TextOptions) -> str:
    return stage_c_key(REQUEST, WEIGHTS, "float32", StageSampling(), *text)


def test_keys_of_the_defaults_stay_as_they_are() -> None:
    """Runs on storage hold them; with another NUMERICS_VERSION this literal changes and has to be made anew."""
    assert key() == "7db71522b624e412454086966d51e66b82388a91d1ed96716ab218cd1e3b5322"
    assert key(TextOptions()) == key()


def test_ways_to_read_a_text_have_keys_of_their_own() -> None:
    options = [TextOptions(way, weighted) for way in ("truncate", "windows") for weighted in (False, True)]
    assert len({key(text) for text in options}) == 4
