"""The region IDs drawn on an image: readable at every size, hiding little, never in the way of an odd image."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsvp_ros.errors import ConfigurationError, InvalidImageError
from rsvp_ros.geometry import RegionGrid
from rsvp_ros.reasoning.visual_prompt import COLUMN_COLOR, ROW_COLOR, STYLES, VisualPrompt

CAMERA_SIZES = [(320, 240), (640, 480), (1280, 720), (3840, 2160)]


def plain(width: int, height: int, gray: int) -> np.ndarray:
    return np.full((height, width, 3), gray, np.uint8)


def glyph_mask(drawn: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Where a gray image was made yellow (row IDs) or light blue (column IDs)."""
    red, green, blue = np.moveaxis(drawn.astype(int), 2, 0)
    return np.minimum(red, green) - blue > 60 if color == ROW_COLOR else np.minimum(green, blue) - red > 50


def read_digit(mask: np.ndarray) -> int:
    """The digit that a glyph looks like most, measured against another font's."""

    def normalised(glyph: np.ndarray) -> np.ndarray:
        x, y, width, height = cv2.boundingRect(glyph)
        box = cv2.resize(glyph[y : y + height, x : x + width].astype(np.float32), (20, 30)).ravel()
        box = np.append(box - box.mean(), 0.0)
        box /= np.linalg.norm(box) + 1e-9
        box[-1] = 2 * width / height  # a 1 is told by how slender it is
        return box

    def template(digit: int) -> np.ndarray:
        page = np.zeros((120, 120), np.uint8)
        return cv2.putText(page, str(digit), (20, 100), cv2.FONT_HERSHEY_DUPLEX, 3.5, 255, 12)

    glyph = normalised(mask)
    return min(range(1, 10), key=lambda digit: np.linalg.norm(glyph - normalised(template(digit))))


def luminance(pixels: np.ndarray) -> np.ndarray:
    """Relative luminance of sRGB pixels N x 3, as WCAG 2 defines it."""
    linear = pixels / 255
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    return linear @ (0.2126, 0.7152, 0.0722)


@pytest.mark.parametrize("size", CAMERA_SIZES)
@pytest.mark.parametrize("gray", [0, 128, 255])
def test_band_ids_are_readable_at_every_size_and_on_any_ground(size, gray):
    width, height = size
    drawn = VisualPrompt().draw(plain(width, height, gray))
    for color in (ROW_COLOR, COLUMN_COLOR):
        mask = glyph_mask(drawn, color).astype(np.uint8)
        found, labels, stats, centers = cv2.connectedComponentsWithStats(mask, connectivity=8)
        read = []
        for i in range(1, found):
            left, top, wide, tall, _ = stats[i]
            assert tall >= 9 and tall >= 0.025 * height
            region = np.s_[max(top - 2, 0) : top + tall + 2, max(left - 2, 0) : left + wide + 2]
            inside = labels[region] == i
            bright = np.percentile(luminance(drawn[region][inside]), 70)
            dark = np.percentile(luminance(drawn[region][~inside]), 10)
            assert (bright + 0.05) / (dark + 0.05) > 4.5, "WCAG's contrast of readable text"
            x, y = centers[i]
            band = int(y * 9 / height) if color == ROW_COLOR else int(x * 9 / width)
            read.append((band + 1, read_digit(inside.astype(np.uint8))))
        assert sorted(read) == sorted(2 * [(i, i) for i in range(1, 10)])


@pytest.mark.parametrize("size", CAMERA_SIZES)
@pytest.mark.parametrize(("style", "count", "limit"), [("bands", 9, 0.06), ("bands", 13, 0.09), ("marks", 9, 0.10)])
def test_little_of_the_image_is_hidden(size, style, count, limit):
    prompt = VisualPrompt(style, count, count)
    hidden = prompt.opacity(*size)
    assert 0 < hidden.mean() < (limit if size[1] < 480 else limit / 2)
    middle = hidden[size[1] // 8 : -size[1] // 8, size[0] // 8 : -size[0] // 8]
    assert middle.max() < (0.75 if style == "bands" else 0.95), "nothing in the middle is hidden altogether"


def test_opacity_says_what_draw_does():
    prompt = VisualPrompt()
    black, white = (prompt.draw(plain(640, 480, gray)).astype(int) for gray in (0, 255))
    kept = (white - black).mean(axis=2) / 255
    np.testing.assert_allclose(kept, 1 - prompt.opacity(640, 480), atol=0.01)


@pytest.mark.parametrize(("rows", "columns"), [(9, 9), (5, 13)])
def test_lines_lie_on_the_edges_of_the_grid_and_ids_inside_their_bands(rows, columns):
    width, height = 640, 480
    prompt = VisualPrompt("bands", rows, columns)
    grid = prompt.grid(width, height)
    assert grid == RegionGrid(rows, columns, width, height)
    hidden = prompt.opacity(width, height)
    across = hidden[50 : height - 50].min(axis=0) > 0
    assert np.flatnonzero(across).tolist() == pytest.approx(grid.column_edges[1:-1].tolist(), abs=1)
    down = hidden[:, 50 : width - 50].min(axis=1) > 0
    assert np.flatnonzero(down).tolist() == pytest.approx(grid.row_edges[1:-1].tolist(), abs=1)

    drawn = prompt.draw(plain(width, height, 60))
    for row in range(1, rows + 1):
        band = grid.box([row], range(1, columns + 1)).to_slices(width, height)
        columns_with_yellow = np.flatnonzero(glyph_mask(drawn[band], ROW_COLOR).any(axis=0))
        assert columns_with_yellow.min() < 30 and columns_with_yellow.max() > width - 30
        assert not ((columns_with_yellow > 30) & (columns_with_yellow < width - 30)).any()
    for column in range(1, columns + 1):
        band = grid.box(range(1, rows + 1), [column]).to_slices(width, height)
        rows_with_blue = np.flatnonzero(glyph_mask(drawn[band], COLUMN_COLOR).any(axis=1))
        assert rows_with_blue.min() < 30 and rows_with_blue.max() > height - 30


def test_marks_stand_at_the_centres_of_their_cells():
    prompt = VisualPrompt("marks", 4, 6)
    hidden = prompt.opacity(640, 480)
    grid = prompt.grid(640, 480)
    for row in range(1, 5):
        for column in range(1, 7):
            y, x = np.nonzero(hidden[grid.box([row], [column]).to_slices(640, 480)])
            assert (x.min() + x.max()) / 2 == pytest.approx(640 / 6 / 2, abs=2)
            assert (y.min() + y.max()) / 2 == pytest.approx(480 / 4 / 2, abs=2)


def test_every_id_is_drawn_where_it_has_room_even_in_the_corners():
    drawn = VisualPrompt("bands", 13, 13).draw(plain(320, 240, 60))
    grid = RegionGrid(13, 13, 320, 240)
    for band in range(1, 14):
        for color, box in ((ROW_COLOR, grid.box([band], range(1, 14))), (COLUMN_COLOR, grid.box(range(1, 14), [band]))):
            assert glyph_mask(drawn[box.to_slices(320, 240)], color).any()


def test_the_given_image_stays_and_none_draws_nothing():
    image = plain(64, 48, 90)
    image.setflags(write=False)
    assert VisualPrompt("none").draw(image) is image
    drawn = VisualPrompt().draw(image)
    assert (image == 90).all() and (drawn != 90).any() and drawn.flags.writeable


def test_a_view_of_a_larger_image_is_drawn_like_a_copy_of_it():
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    view = image[::2, ::-2, ::-1]
    np.testing.assert_array_equal(VisualPrompt().draw(view), VisualPrompt().draw(view.copy()))


@settings(max_examples=60, deadline=None)
@given(
    style=st.sampled_from(STYLES),
    rows=st.integers(1, 20),
    columns=st.integers(1, 20),
    width=st.integers(1, 400),
    height=st.integers(1, 400),
)
def test_images_of_any_size_are_drawn(style, rows, columns, width, height):
    prompt = VisualPrompt(style, rows, columns)
    drawn = prompt.draw(plain(width, height, 128))
    assert drawn.shape == (height, width, 3) and drawn.dtype == np.uint8
    assert prompt.opacity(width, height).mean() <= 0.45


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 1000), (1000, 1), (3, 5000), (5000, 16)])
@pytest.mark.parametrize("style", STYLES)
def test_extreme_shapes_do_not_crash(style, size):
    assert VisualPrompt(style).draw(plain(*size, 200)).shape == (size[1], size[0], 3)


@pytest.mark.parametrize("image", [np.zeros((0, 5, 3), np.uint8), np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3))])
def test_what_is_not_an_image_is_refused(image):
    with pytest.raises(InvalidImageError, match="uint8 H x W x 3"):
        VisualPrompt().draw(image)


@pytest.mark.parametrize("options", [{"style": "grid"}, {"rows": 0}, {"columns": 100}])
def test_options_that_cannot_be_drawn_are_refused(options):
    with pytest.raises(ConfigurationError, match="use"):
        VisualPrompt(**options)
