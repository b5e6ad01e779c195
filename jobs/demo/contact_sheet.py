"""A contact sheet of a finished run: its pictures in the order of the prompt table, each above its prompt.

Run:  python jobs/demo/contact_sheet.py RUN [--out FILE] [--columns 6] [--limit 120] [--colours N]

RUN is a folder or a URL. The sheet is a PNG 1500 pixels wide, by default `contact_sheet.png` in a local RUN, else
in the current folder. A failed row is an empty frame with its error code. Captions are set in the font that
Pillow brings, which has no letters beyond Latin ones.
"""

import argparse
import io
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

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


def contact_sheet(run: str, columns: int, limit: int) -> Image.Image:
    """The sheet of the first `limit` images of a finished run, RGB.

    Raises:
        StorageError: there is no finished run, or the store fails.
    """
    storage = Storage(run)
    side = (WIDTH - 2 * MARGIN - (columns - 1) * GAP) // columns
    font = ImageFont.load_default(TEXT_SIZE)
    rows = (row for part in read_table(storage, COLUMNS) for row in part.to_pylist())
    cells = [_cell(storage, row, side, font) for row in itertools.islice(rows, limit)]
    return _set([cells[i : i + columns] for i in range(0, len(cells), columns)], side, font)


def _cell(storage: Storage, row: dict[str, Any], side: int, font: Font) -> Cell:
    if row["image_uri"] is None:
        picture, caption = (
            Image.new("RGB", (side, side), PAPER),
            f"({row['error_code']}) {row['prompt'] or ''}",
        )
    else:
        whole = Image.open(io.BytesIO(storage.read(row["image_uri"])))
        picture, caption = ImageOps.contain(whole, (side, side), Image.Resampling.LANCZOS), row["prompt"]
    return Cell(picture, wrapped(caption, font, side))


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
    parser = argparse.ArgumentParser(description="A contact sheet of a finished run.")
    parser.add_argument("run", metavar="RUN", help="the run's folder or URL")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: contact_sheet.png in a local RUN")
    parser.add_argument("--columns", type=int, default=6, choices=range(1, 13), metavar="N")
    parser.add_argument("--limit", type=int, default=120, metavar="N", help="the first N images (120)")
    parser.add_argument("--colours", type=int, metavar="N", help="a palette of N, 2 to 256: a smaller file")
    options = parser.parse_args(arguments)
    try:
        sheet = contact_sheet(options.run, options.columns, options.limit)
    except CascadeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    storage = Storage(options.run)
    out = options.out or Path(storage.uri if storage.is_local else ".") / "contact_sheet.png"
    if options.colours:
        sheet = sheet.quantize(options.colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    sheet.save(out, optimize=True)
    print(f"contact sheet {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
