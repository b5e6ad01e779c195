"""A contact sheet of a finished run, or of editions of a collection: pictures, each above its prompt.

Run:  python jobs/demo/contact_sheet.py RUN [--out FILE] [--columns 6] [--limit 120] [--colours N]
      python jobs/demo/contact_sheet.py COLLECTION [--edition N]... [--out FILE] ...

Both are a folder or a URL. A run's pictures come in the order of its prompt table, an edition's in that of their ids.
Several editions stand side by side, image by image; without a number it is the newest. The sheet is a PNG 1500 pixels
wide, by default `contact_sheet.png` in a local RUN, else in the current folder. A failed row is an empty frame with
its error code. Captions are set in the font that Pillow brings, which has no letters beyond Latin ones.
"""

import argparse
import io
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from cascade_batch.collection.care.restoring import edition_of, history_of
from cascade_batch.collection.place import Collection, is_collection, open_collection
from cascade_batch.errors import CascadeError
from cascade_batch.run.manifest import read_table
from cascade_batch.storage import Storage

WIDTH = 1500
MARGIN, GAP = 40, 24
"""Pixels around the sheet and between pictures."""
TEXT_SIZE, LINE, LINES = 16, 22, 4
"""A caption's letters and line height in pixels, and its lines at most."""
PAPER, INK, FRAME = "white", "#333333", "#d8d8d8"
COLUMNS = ["prompt", "image_uri", "error_code"]

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


@dataclass(frozen=True)
class Cell:
    """One picture, small enough for its column, and the lines under it."""

    picture: Image.Image
    caption: list[str]

    @property
    def height(self) -> int:
        return self.picture.height + LINE // 2 + LINE * len(self.caption)


def contact_sheet(source: str, columns: int, limit: int, editions: Sequence[int] = ()) -> Image.Image:
    """The sheet of the first `limit` images of a finished run, or of editions of a collection, RGB.

    Raises:
        StorageError: there is no finished run, or the store fails.
        SpecError: there is no such edition.
    """
    storage = Storage(source)
    rows = editions_side_by_side(source, editions) if is_collection(source) else _rows_of_run(storage)
    if editions:
        columns, limit = max(1, columns // len(editions)) * len(editions), limit * len(editions)
    side = (WIDTH - 2 * MARGIN - (columns - 1) * GAP) // columns
    font = ImageFont.load_default(TEXT_SIZE)
    cells = [_cell(storage, row, side, font) for row in itertools.islice(rows, limit)]
    return _set([cells[i : i + columns] for i in range(0, len(cells), columns)], side, font)


def _rows_of_run(storage: Storage) -> Iterator[dict[str, Any]]:
    return (row for part in read_table(storage, COLUMNS) for row in part.to_pylist())


def editions_side_by_side(uri: str, numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Of each image in one of the editions a row of each, by ids; several editions are told by number."""
    collection = open_collection(uri)
    history = history_of(collection)
    chosen = [edition_of(history, number) for number in numbers] or history[:1]
    found = {edition.number: _images(collection, edition.number) for edition in chosen}
    for image in sorted(set().union(*found.values())):
        for number, images in found.items():
            row = images.get(image, {"prompt": None, "image_uri": None, "error_code": "not there"})
            yield row | ({"edition": number} if len(found) > 1 else {})


def _images(collection: Collection, number: int) -> dict[tuple[str, int], dict[str, Any]]:
    rows = collection.table.read(["prompt_id", "image_index", *COLUMNS], version=number).to_pylist()
    return {(row["prompt_id"], row["image_index"]): row for row in rows}


def _cell(storage: Storage, row: dict[str, Any], side: int, font: Font) -> Cell:
    if row["image_uri"] is None:
        picture = Image.new("RGB", (side, side), PAPER)
    else:
        whole = Image.open(io.BytesIO(storage.read(row["image_uri"])))
        picture = ImageOps.contain(whole, (side, side), Image.Resampling.LANCZOS)
    return Cell(picture, wrapped(_caption(row), font, side))


def _caption(row: dict[str, Any]) -> str:
    told = [f"{row['edition']}:"] if "edition" in row else []
    told += [f"({row['error_code']})"] if row["error_code"] else []
    return " ".join([*told, row["prompt"] or ""])


def wrapped(text: str, font: Font, width: int) -> list[str]:
    """Lines no wider than `width` pixels, `LINES` at most; what is cut off is told by three dots."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        elif lines[-1]:
            lines.append(word)
        else:
            lines[-1] = word
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], lines[LINES - 1] + " ..."]
    return [_fitting(line, font, width) for line in lines]


def _fitting(line: str, font: Font, width: int) -> str:
    """The line, or as much of it as fits with three dots: a word may be longer than a line."""
    short = line
    while short and font.getlength(line) > width:
        short = short.removesuffix(" ...")[:-1]
        line = f"{short.rstrip()} ..."
    return line


def _set(rows: Sequence[Sequence[Cell]], side: int, font: Font) -> Image.Image:
    heights = [max(cell.height for cell in row) for row in rows]
    sheet = Image.new("RGB", (WIDTH, 2 * MARGIN + sum(heights) + GAP * max(0, len(rows) - 1)), PAPER)
    pen, top = ImageDraw.Draw(sheet), MARGIN
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            _draw(sheet, pen, cell, MARGIN + column * (side + GAP), top, side, font)
        top += height + GAP
    return sheet


def _draw(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, cell: Cell, left: int, top: int, side: int, font: Font
) -> None:
    picture = cell.picture
    at = left + (side - picture.width) // 2
    sheet.paste(picture, (at, top))
    # around the picture: many have the colour of the paper
    pen.rectangle((at - 1, top - 1, at + picture.width, top + picture.height), outline=FRAME)
    for number, line in enumerate(cell.caption):
        y = top + picture.height + LINE // 2 + LINE * number
        pen.text((left + side / 2, y), line, fill=INK, font=font, anchor="ma")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="A contact sheet of a finished run, or of a collection.")
    parser.add_argument("source", metavar="RUN", help="the run's or the collection's folder or URL")
    parser.add_argument(
        "--edition",
        type=int,
        action="append",
        default=[],
        metavar="N",
        help="of a collection; may be repeated",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: contact_sheet.png in a local RUN")
    parser.add_argument("--columns", type=int, default=6, choices=range(1, 13), metavar="N")
    parser.add_argument("--limit", type=int, default=120, metavar="N", help="the first N images (120)")
    parser.add_argument("--colours", type=int, metavar="N", help="a palette of N, 2 to 256: a smaller file")
    options = parser.parse_args(arguments)
    try:
        sheet = contact_sheet(options.source, options.columns, options.limit, options.edition)
    except CascadeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    storage = Storage(options.source)
    out = options.out or Path(storage.uri if storage.is_local else ".") / "contact_sheet.png"
    if options.colours:
        sheet = sheet.quantize(options.colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    sheet.save(out, optimize=True)
    print(f"contact sheet {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
