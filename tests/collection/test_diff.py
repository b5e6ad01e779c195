"""What changed between two editions, and why."""

import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from cascade_batch.cli import main
from cascade_batch.collection.care.diffing import ADDED, CARRIED, CHANGED, KINDS, WITHDRAWN, Diff, diff
from cascade_batch.collection.editions import editions_of
from cascade_batch.collection.place import Collection
from tests.collection.making import rewritten


def between(collection: Collection, a: int, b: int) -> Diff:
    editions = {edition.number: edition for edition in editions_of(collection.table)}
    return diff(collection.table, editions[a], editions[b])


def told(found: Diff) -> dict[str, dict[str, tuple[str, ...]]]:
    return {kind: {p.prompt_id: p.why for p in found.prompts(kind)} for kind in KINDS if found.count(kind)}


def test_prompts_added_withdrawn_and_changed_are_told_apart(collection: Collection) -> None:
    assert told(between(collection, 1, 2)) == {
        ADDED: {"prompt 6": ()},
        WITHDRAWN: {"prompt 5": ()},
        CHANGED: {"prompt 1": ("prompt", "seed")},
    }


def test_other_columns_are_a_group_of_their_own(collection: Collection) -> None:
    """NaN in a list is no change."""
    assert told(between(collection, 2, 3)) == {
        CHANGED: {"prompt 0": ("prompt", "seed")},
        CARRIED: {"prompt 2": ("category",)},
    }


def test_a_diff_backwards_is_the_opposite(collection: Collection) -> None:
    forth, back = told(between(collection, 1, 4)), told(between(collection, 4, 1))
    assert back[ADDED].keys() == forth[WITHDRAWN].keys()
    assert back[CHANGED] == forth[CHANGED]


def changed_rows(collection: Collection, where: pc.Expression, **columns: list) -> pa.Table:
    rows = collection.table.read(where=where)
    for name, values in columns.items():
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(name), pa.array(values, rows.schema.field(name).type))
    return rows


def test_other_weights_explain_what_no_value_does(collection: Collection) -> None:
    rows = collection.table.read(["image_id"]).num_rows
    changed = changed_rows(collection, pc.scalar(True), stage_ba_key=[f"other {i}" for i in range(rows)])
    weights = editions_of(collection.table)[0].weights
    rewritten(collection, changed, weights={**weights, "stage_b": "0" * 64}, numerics=1)
    found = between(collection, 4, 5)
    assert [(change.name, change.stage) for change in found.record] == [("weights of stage_b", "ba")]
    assert set(told(found)[CHANGED].values()) == {("weights of stage_b",)}
    assert found.counts_of_reasons(CHANGED) == {"weights of stage_b": rows}


def test_sampler_and_text_settings_are_named(collection: Collection) -> None:
    last = editions_of(collection.table)[0]
    spec = json.loads(json.dumps(last.spec))
    spec["sampler"]["c"]["method"] = "ddim"
    spec["text"]["weighting"] = True
    changed = changed_rows(
        collection, pc.field("prompt_id") == "prompt 3", stage_c_key=["x"], stage_ba_key=["y"]
    )
    rewritten(collection, changed, spec=spec)
    found = between(collection, 4, 5)
    assert told(found) == {CHANGED: {"prompt 3": ("sampler c.method", "text settings weighting")}}


def test_failed_rows_and_pictures_rendered_again_are_changes(collection: Collection) -> None:
    none = [None]
    failed = changed_rows(
        collection, pc.field("prompt_id") == "prompt 3", status=["failed"], error_code=["nan_output"],
        image_uri=none, image_bytes=none, image_sha256=none, pixel_sha256=none,
    )  # fmt: skip
    again = changed_rows(collection, pc.field("prompt_id") == "prompt 4", image_sha256=["0" * 64])
    rewritten(collection, pa.concat_tables([failed, again]))
    assert told(between(collection, 4, 5)) == {
        CHANGED: {"prompt 3": ("failed or not",), "prompt 4": ("rendered again",)}
    }


def test_another_number_of_images_is_a_change_of_its_prompt(collection: Collection) -> None:
    more = changed_rows(
        collection, pc.field("prompt_id") == "prompt 3", image_id=["another"], image_index=[1]
    )
    rewritten(collection, more)
    found = between(collection, 4, 5)
    assert told(found) == {CHANGED: {"prompt 3": ("number of images",)}}
    assert found.images[ADDED] == 1


def test_columns_that_came_went_or_have_another_type(collection: Collection) -> None:
    table, last = collection.table, editions_of(collection.table)[0]
    rows = table.read()
    names = rows["category"].to_pylist()
    rows = rows.drop(["category", "scores"]).append_column("length", pa.array([len(n) for n in names]))
    rows = rows.append_column("scores", pa.array(["1"] * len(rows)))
    metadata = {"edition": replace(last, number=5).to_json()}
    table.overwrite(rows.to_batches(), rows.schema, after=4, metadata=metadata, token="another schema")
    found = between(collection, 4, 5)
    assert (found.columns_added, found.columns_dropped) == (("length",), ("category",))
    assert set(told(found)[CARRIED].values()) == {("scores",)}


def test_printed_and_as_json(collection: Collection, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collection", "diff", collection.uri, "1", "3"]) == 0
    text = capsys.readouterr().out
    assert "changed   2 prompts: prompt 2, seed 2" in text
    assert "prompt: 'a red circle, number 0' > 'a white circle'" in text
    assert "columns   1 prompt: category 1" in text
    assert main(["collection", "diff", collection.uri, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (lines[0]["before"], lines[0]["after"]) == (3, 4)
    assert lines[1:] == [{"prompt_id": "prompt 0", "difference": CHANGED, "why": ["prompt", "seed"]}]


def test_an_edition_and_itself(collection: Collection, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collection", "diff", collection.uri, "2", "2"]) == 0
    assert "no prompt is added" in capsys.readouterr().out
    assert main(["collection", "diff", collection.uri, "1"]) == 2
    assert "no edition before" in capsys.readouterr().err
