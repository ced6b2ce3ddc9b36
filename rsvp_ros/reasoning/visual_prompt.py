"""RSVP's visual prompt: region IDs drawn on the image, so that a model can read where something is (sec. 3.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from rsvp_ros.errors import ConfigurationError, InvalidImageError
from rsvp_ros.geometry import RegionGrid

STYLES = ("bands", "marks", "none")
MAX_BANDS = 32

ROW_COLOR = (255, 224, 64)
"""RGB of the row IDs; prompts/bands.txt calls it yellow."""
COLUMN_COLOR = (96, 232, 255)
"""RGB of the column IDs; prompts/bands.txt calls it light blue."""
MARK_COLOR = (255, 255, 255)

MIN_GLYPH_HEIGHT = 10
"""Pixels; smaller digits are lost between the 14 to 16 pixel patches of a vision encoder."""
GLYPH_FRACTION = 1 / 46
"""A digit's height as a share of the square root of the image's area: models scale images to a budget of pixels."""
MIN_BAND = 8
"""Pixels; where bands are narrower, only every second, third, ... edge between them is drawn."""

LINE_OPACITY = 0.45
GLYPH_OPACITY = 0.95
HALO_OPACITY = 0.75
MARK_OPACITY = 0.80
MARK_HALO_OPACITY = 0.45
"""Marks lie on the objects themselves, so they let more of the image show through."""

Color = tuple[int, int, int]


@dataclass(frozen=True)
class VisualPrompt:
    """How region IDs are drawn on an image.

    - `bands`: the image is cut into `rows` horizontal and `columns` vertical bands, separated by thin dashed lines.
      Row IDs are at the left and right border, column IDs at the top and bottom one, from 1.
    - `marks`: a number at the centre of every cell of the same grid, from 1 at the top left, row by row (a dot lattice,
      as in Scaffold prompting): mark `m` is the cell in row `(m - 1) // columns + 1`, column `(m - 1) % columns + 1`.
    - `none`: the image as it is.

    Everything is drawn inside the image, not on a margin around it, so that a box from the model is one in the image.
    Raises ConfigurationError for an unknown style or a grid that cannot be drawn.
    """

    style: str = "bands"
    rows: int = 9
    columns: int = 9

    def __post_init__(self) -> None:
        if self.style not in STYLES:
            raise ConfigurationError(
                f"the visual prompt {self.style!r} is unknown; use one of {', '.join(map(repr, STYLES))}"
            )
        for name, count in (("rows", self.rows), ("columns", self.columns)):
            if not 1 <= count <= MAX_BANDS:
                raise ConfigurationError(f"a visual prompt of {count} {name} cannot be drawn; use 1 to {MAX_BANDS}")

    def grid(self, width: int, height: int) -> RegionGrid:
        """What an ID in the model's answer means in an image of this size, pixels."""
        return RegionGrid(self.rows, self.columns, width, height)

    def draw(self, image: np.ndarray) -> np.ndarray:
        """The image with the IDs on it, both uint8 H x W x 3 RGB; the given array is not changed.

        On an image too small for all IDs, as many are drawn as fit; those that are drawn are right.
        Raises InvalidImageError for any other array.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise InvalidImageError(
                f"an image of shape {image.shape} and type {image.dtype} cannot be used; give uint8 H x W x 3 RGB"
            )
        if self.style == "none":
            return image
        height, width = image.shape[:2]
        overlay = _overlay(self.style, self.rows, self.columns, width, height)
        drawn = np.array(image, order="C")
        pixels = drawn.reshape(-1, 3)
        pixels[overlay.index] = (pixels[overlay.index] * overlay.keep + overlay.add) >> 8
        return drawn

    def opacity(self, width: int, height: int) -> np.ndarray:
        """How much of each pixel of an image of this size is hidden, 0 to 1, float32 H x W."""
        hidden = np.zeros(height * width, np.float32)
        if self.style != "none":
            overlay = _overlay(self.style, self.rows, self.columns, width, height)
            hidden[overlay.index] = 1 - overlay.keep[:, 0] / np.float32(256)
        return hidden.reshape(height, width)


class _Overlay(NamedTuple):
    """The pixels that are drawn on, and no others: each becomes `(pixel * keep + add) >> 8`."""

    index: np.ndarray
    """Flat pixel numbers, int32 N."""
    keep: np.ndarray
    """Share of the image that stays, 0 to 256, uint16 N x 1."""
    add: np.ndarray
    """Colour times opacity, uint16 N x 3."""


@lru_cache(maxsize=4)
def _overlay(style: str, rows: int, columns: int, width: int, height: int) -> _Overlay:
    """Drawn once per camera resolution: making it costs 10 to 30 times as much as using it."""
    canvas = _Canvas(width, height)
    grid = RegionGrid(rows, columns, width, height)
    if style == "bands":
        _draw_lines(canvas, grid)
        _label_bands(canvas, grid)
    else:
        _label_cells(canvas, grid)
    return canvas.overlay()


class _Canvas:
    """A translucent drawing: later strokes go over earlier ones, and labels never overlap."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.color = np.zeros((height, width, 3), np.uint8)
        self.opacity = np.zeros((height, width), np.float32)
        self.labelled = np.zeros((height, width), bool)

    def paint(self, x: int, y: int, shape: np.ndarray, color: Color) -> None:
        """Paint a colour with the opacities `shape`, float32 h x w, top left corner at (x, y), all on the canvas."""
        region = np.s_[y : y + shape.shape[0], x : x + shape.shape[1]]
        total = self.opacity[region] * (1 - shape) + shape
        weight = np.divide(shape, total, out=np.zeros_like(shape), where=total > 0)[..., None]
        self.color[region] = np.round(self.color[region] * (1 - weight) + np.asarray(color, np.float32) * weight)
        self.opacity[region] = total

    def label(self, text: _Label, x: float, y: float, color: Color, opacity: float, halo_opacity: float) -> None:
        """Write a number centred at (x, y), moved inwards if it would leave the canvas, or nothing if it would overlap
        another one."""
        height, width = text.shape
        left = min(max(round(x - width / 2), 0), self.width - width)
        top = min(max(round(y - height / 2), 0), self.height - height)
        region = np.s_[top : top + height, left : left + width]
        if self.labelled[region].any():
            return
        self.labelled[region] = True
        self.paint(left, top, text.halo * np.float32(halo_opacity), (0, 0, 0))
        self.paint(left, top, text.glyph * np.float32(opacity), color)

    def overlay(self) -> _Overlay:
        opacity = np.round(self.opacity.ravel() * 256).astype(np.uint16)
        index = np.flatnonzero(opacity).astype(np.int32)
        opacity = opacity[index, None]
        return _Overlay(index, 256 - opacity, self.color.reshape(-1, 3)[index] * opacity)


def _draw_lines(canvas: _Canvas, grid: RegionGrid) -> None:
    """Lines between the bands, with dashes alternating between white and black: visible on any background, and only
    one stroke thick."""
    scale = math.sqrt(grid.width * grid.height)
    thickness = max(1, round(scale / 900))
    dash = max(3, round(scale / 100))

    def draw(edges: np.ndarray, length: int, transposed: bool) -> None:
        white = (np.arange(length) // dash % 2 == 0)[:, None].repeat(thickness, axis=1)
        step = math.ceil(MIN_BAND / edges[1])
        for edge in edges[step:-1:step]:
            start = round(edge - thickness / 2)
            for dashes, color in ((white, (255, 255, 255)), (~white, (0, 0, 0))):
                stroke = dashes * np.float32(LINE_OPACITY)
                if transposed:
                    canvas.paint(0, start, stroke.T, color)
                else:
                    canvas.paint(start, 0, stroke, color)

    draw(grid.column_edges, grid.height, transposed=False)
    draw(grid.row_edges, grid.width, transposed=True)


def _label_bands(canvas: _Canvas, grid: RegionGrid) -> None:
    row_labels, column_labels = _labels(grid, grid.rows), _labels(grid, grid.columns)
    height, row_width = _largest(row_labels)
    _, column_width = _largest(column_labels)
    # The IDs at opposite borders must leave half of a small image free between them.
    rows_fit = grid.width >= 4 * row_width and grid.height >= height
    columns_fit = grid.height >= 4 * height and grid.width >= column_width
    row_centers = (grid.row_edges[:-1] + grid.row_edges[1:]) / 2
    column_centers = (grid.column_edges[:-1] + grid.column_edges[1:]) / 2

    def row(i: int, x: float) -> None:
        if rows_fit:
            canvas.label(row_labels[i], x, row_centers[i], ROW_COLOR, GLYPH_OPACITY, HALO_OPACITY)

    def column(i: int, y: float) -> None:
        if columns_fit:
            canvas.label(column_labels[i], column_centers[i], y, COLUMN_COLOR, GLYPH_OPACITY, HALO_OPACITY)

    # In a dense grid a row's and a column's ID meet in each corner. Going round, each of the four IDs gets one corner.
    row(0, 0)
    column(grid.columns - 1, 0)
    row(grid.rows - 1, grid.width)
    column(0, grid.height)
    for i in range(grid.rows):
        row(i, 0)
        row(i, grid.width)
    for i in range(grid.columns):
        column(i, 0)
        column(i, grid.height)


def _label_cells(canvas: _Canvas, grid: RegionGrid) -> None:
    labels = _labels(grid, grid.rows * grid.columns)
    height, width = _largest(labels)
    if grid.height < 2 * height or grid.width < 2 * width:
        return
    for i, label in enumerate(labels):
        row, column = divmod(i, grid.columns)
        x = (grid.column_edges[column] + grid.column_edges[column + 1]) / 2
        y = (grid.row_edges[row] + grid.row_edges[row + 1]) / 2
        canvas.label(label, x, y, MARK_COLOR, MARK_OPACITY, MARK_HALO_OPACITY)


class _Label(NamedTuple):
    """A number and the dark halo that sets it off from a light background; both float32 h x w, 0 to 1."""

    glyph: np.ndarray
    halo: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.glyph.shape


def _labels(grid: RegionGrid, count: int) -> list[_Label]:
    """The numbers 1 to `count`, sized for the image."""
    height = GLYPH_FRACTION * math.sqrt(grid.width * grid.height)
    height = max(MIN_GLYPH_HEIGHT, round(min(height, 0.6 * grid.height / grid.rows)))
    return [_label(str(number), height) for number in range(1, count + 1)]


def _largest(labels: list[_Label]) -> tuple[int, int]:
    return max(label.shape[0] for label in labels), max(label.shape[1] for label in labels)


def _label(text: str, height: int) -> _Label:
    # Drawn large and averaged down, because OpenCV's own small digits run together; strokes are two pixels or wider.
    font, scale, tall = cv2.FONT_HERSHEY_SIMPLEX, 4.0, 84
    weight = max(14, 2 * tall // height)
    (text_width, text_height), _ = cv2.getTextSize(text, font, scale, weight)
    large = np.zeros((text_height + 2 * weight, text_width + 2 * weight), np.uint8)
    cv2.putText(large, text, (weight, weight + text_height), font, scale, 255, weight, cv2.LINE_AA)
    x, y, large_width, large_height = cv2.boundingRect(large)
    width = max(1, round(large_width * height / large_height))
    glyph = cv2.resize(large[y : y + large_height, x : x + large_width], (width, height), interpolation=cv2.INTER_AREA)
    radius = max(1, round(height / 9))
    glyph = np.pad(glyph, radius)
    halo = cv2.dilate(glyph, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)))
    return _Label(glyph.astype(np.float32) / 255, np.minimum(halo.astype(np.float32) / 128, 1))
