"""docs/collections.md names all that a reader of a collection meets, and README what its commands end with."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from cascade_batch.cli import exit_codes
from cascade_batch.cli.arguments import build_parser
from cascade_batch.collection import paths
from cascade_batch.collection.editions import Counts, Edition
from cascade_batch.collection.lease import Owner
from cascade_batch.collection.place import FORMAT_KEY
from cascade_batch.collection.schemas import EDITION, KNOWN

PROJECT = Path(__file__).parents[2]
PAGE = (PROJECT / "docs/collections.md").read_text()


def section(title: str) -> str:
    return re.split(r"\n##+ ", PAGE.split(f"# {title}\n")[1])[0]


@pytest.mark.parametrize(
    ("title", "names"),
    [
        ("table/", EDITION.names),
        ("known/", KNOWN.names),
        ("Metadata of an edition", [field.name for field in (*fields(Edition), *fields(Counts))]),
        ("lease.json, gc/", [field.name for field in fields(Owner)]),
    ],
)
def test_every_column_and_key_stands_in_its_section(title: str, names: list[str]) -> None:
    told = set(re.findall(r"`([^`\s]+)`", section(title)))
    assert set(names) <= told


def test_types_of_columns_are_those_of_the_schema() -> None:
    for names, types in re.findall(r"^\| (`.*?`) \| ([\w, ]+) \|", section("table/"), re.MULTILINE):
        columns = re.findall(r"`(\w+)`", names)
        kinds = types.split(", ") * (len(columns) if "," not in types else 1)
        if columns[0] in EDITION.names and "as in" not in types:
            assert [str(EDITION.field(name).type) for name in columns] == kinds


def test_every_place_and_the_format_are_named() -> None:
    for name in (f"{paths.TABLE}/", f"{paths.KNOWN}/", paths.LEASE, paths.RUNS, paths.OUTCOMES, paths.GC):
        assert re.search(rf"^{re.escape(name)}", section("What lies where"), re.MULTILINE), name
    assert FORMAT_KEY in section("table/")


def test_every_option_is_told() -> None:
    told = build_parser().parse_args(["regenerate", "prompts", "--into", "c"])
    for name in ("edition", "reuse", "retry_failed", "keep_stale", "if_busy", "runner"):
        assert hasattr(told, name)
        assert f"`--{name.replace('_', '-')}" in section("regenerate")


@pytest.mark.parametrize("page", ["README.md", "docs/collections.md"])
def test_every_exit_code_is_told(page: str) -> None:
    text = (PROJECT / page).read_text()
    told = text.split("Exit codes: ")[1].split("\n\n")[0]
    codes = {value for value in vars(exit_codes).values() if isinstance(value, int)} - {exit_codes.UNREAD}
    assert codes <= {int(number) for number in re.findall(r"\b(\d+) ", told.replace("\n", " "))}
