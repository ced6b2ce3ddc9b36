"""Boxes, the region grid and masks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsvp_ros.geometry import Box, RegionGrid, box_to_mask, mask_iou, mask_to_box

coordinates = st.floats(-1e5, 1e5, allow_subnormal=False)
boxes = st.builds(Box.ordered, coordinates, coordinates, coordinates, coordinates)
whole_boxes = st.builds(Box.ordered, *[st.integers(-50, 150)] * 4)
sizes = st.tuples(st.integers(1, 3000), st.integers(1, 3000))


@pytest.mark.parametrize("corners", [(1, 0, 0, 1), (0, 1, 1, 0), (math.nan, 0, 1, 1), (0, 0, math.inf, 1)])
def test_a_box_that_is_none_is_refused(corners):
    with pytest.raises(ValueError, match="a box needs"):
        Box(*corners)


@pytest.mark.parametrize("place", range(4))
def test_a_corner_that_is_no_number_is_refused(place):
    with pytest.raises(ValueError, match="four finite numbers"):
        Box.ordered(*[math.nan if i == place else 5.0 + i for i in range(4)])


def test_properties_of_a_box():
    box = Box.from_xywh(10, 20, 30, 40)
    assert box == Box(10, 20, 40, 60)
    assert (box.width, box.height, box.area, box.center) == (30, 40, 1200, (25, 40))
    assert box.pad(0.5) == Box(-5, 0, 55, 80)
    assert box.scale(2, 0.5) == Box(20, 10, 80, 30)
    assert box.translate(-10, 5) == Box(0, 25, 30, 65)
    assert box.union(Box(0, 50, 20, 100)) == Box(0, 20, 40, 100)
    assert box.intersection(Box(30, 50, 99, 99)) == 100
    assert box.iou(Box(30, 20, 50, 60)) == pytest.approx(400 / 1600)
    assert box.clip(30, 30) == Box(10, 20, 30, 30)
    assert Box.ordered(40, 20, 10, 60) == box


@given(boxes, boxes)
def test_intersection_and_union(a, b):
    assert a.intersection(b) == b.intersection(a)
    assert 0 <= a.intersection(b) <= min(a.area, b.area)
    assert 0 <= a.iou(b) <= 1
    union = a.union(b)
    assert union.intersection(a) == a.area
    assert union.intersection(b) == b.area


@given(boxes)
def test_iou_with_itself(box):
    assert box.iou(box) == (1 if box.area > 0 else 0)


@given(boxes, sizes)
def test_a_clipped_box_lies_in_the_image_and_clipping_again_changes_nothing(box, size):
    width, height = size
    clipped = box.clip(width, height)
    assert 0 <= clipped.x0 <= clipped.x1 <= width
    assert 0 <= clipped.y0 <= clipped.y1 <= height
    assert clipped.clip(width, height) == clipped
    assert clipped.area == pytest.approx(box.intersection(Box(0, 0, width, height)), abs=1e-6)


@given(boxes, st.floats(0.01, 100), st.floats(0.01, 100))
def test_scaling_back(box, sx, sy):
    back = box.scale(sx, sy).scale(1 / sx, 1 / sy)
    assert back.as_tuple() == pytest.approx(box.as_tuple(), rel=1e-9, abs=1e-6)


@given(boxes, st.floats(0, 2))
def test_padding_grows_on_all_sides_alike(box, fraction):
    padded = box.pad(fraction)
    assert padded.width == pytest.approx(box.width * (1 + 2 * fraction), abs=1e-6)
    assert padded.center == pytest.approx(box.center, abs=1e-6)


# ---- the grid


@pytest.mark.parametrize("numbers", [(0, 9, 10, 10), (9, 0, 10, 10), (9, 9, 0, 10), (9, 9, 10, 0)])
def test_an_empty_grid_is_refused(numbers):
    with pytest.raises(ValueError, match="at least one band"):
        RegionGrid(*numbers)


def test_boxes_of_bands():
    grid = RegionGrid(rows=4, columns=5, width=500, height=200)
    assert grid.box([1], [1]) == Box(0, 0, 100, 50)
    assert grid.box([4], [5]) == Box(400, 150, 500, 200)
    assert grid.box([3, 2], [2, 4]) == Box(100, 50, 400, 150)
    assert grid.row_edges.tolist() == [0, 50, 100, 150, 200]
    assert grid.column_edges.tolist() == [0, 100, 200, 300, 400, 500]


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([], [1], "at least one row and one column"),
        ([1], [], "at least one row and one column"),
        ([0], [1], "row 0 is not on the grid, which has rows 1 to 4"),
        ([1], [6], "column 6 is not on the grid, which has columns 1 to 5"),
    ],
)
def test_bands_that_are_not_there_are_refused(rows, columns, message):
    with pytest.raises(ValueError, match=message):
        RegionGrid(4, 5, 500, 200).box(rows, columns)


def test_bands_of_a_box():
    grid = RegionGrid(rows=4, columns=5, width=500, height=200)
    assert grid.bands(Box(0, 0, 500, 200)) == ((1, 2, 3, 4), (1, 2, 3, 4, 5))
    assert grid.bands(Box(100, 50, 200, 100)) == ((2,), (2,))  # half-open: its neighbours are not touched
    assert grid.bands(Box(99, 49, 201, 101)) == ((1, 2, 3), (1, 2, 3))
    assert grid.bands(Box(-50, -50, 10, 10)) == ((1,), (1,))
    assert grid.bands(Box(600, 0, 700, 50)) == ((), ())
    assert grid.bands(Box(100, 50, 100, 100)) == ((), ())


grids = st.builds(RegionGrid, st.integers(1, 20), st.integers(1, 20), st.integers(1, 2000), st.integers(1, 2000))


@given(grids, st.data())
def test_the_bands_of_a_box_hold_it(grid, data):
    xs = sorted(data.draw(st.tuples(*[st.floats(0, grid.width, allow_subnormal=False)] * 2)))
    ys = sorted(data.draw(st.tuples(*[st.floats(0, grid.height, allow_subnormal=False)] * 2)))
    box = Box(xs[0], ys[0], xs[1], ys[1])
    rows, columns = grid.bands(box)
    if not rows:
        assert box.width == 0 or box.height == 0
        return
    assert list(rows) == list(range(rows[0], rows[-1] + 1))
    region = grid.box(rows, columns)
    tolerance = 1e-9 * max(grid.width, grid.height)
    assert region.x0 <= box.x0 + tolerance and box.x1 <= region.x1 + tolerance
    assert region.y0 <= box.y0 + tolerance and box.y1 <= region.y1 + tolerance


@given(grids, st.data())
def test_the_bands_of_a_region_of_bands_are_those_bands(grid, data):
    first_row, first_column = data.draw(st.integers(1, grid.rows)), data.draw(st.integers(1, grid.columns))
    rows = tuple(range(first_row, data.draw(st.integers(first_row, grid.rows)) + 1))
    columns = tuple(range(first_column, data.draw(st.integers(first_column, grid.columns)) + 1))
    box = grid.box(rows, columns)
    shrink = 1e-6 * min(grid.width / grid.columns, grid.height / grid.rows)
    assert grid.bands(Box(box.x0 + shrink, box.y0 + shrink, box.x1 - shrink, box.y1 - shrink)) == (rows, columns)


@given(grids)
def test_all_bands_are_the_whole_image(grid):
    assert grid.box(range(1, grid.rows + 1), range(1, grid.columns + 1)) == Box(0, 0, grid.width, grid.height)


# ---- masks


@given(whole_boxes, st.integers(1, 100), st.integers(1, 100))
def test_a_mask_of_a_box_has_that_box(box, width, height):
    mask = box_to_mask(box, width, height)
    assert mask.shape == (height, width)
    clipped = box.clip(width, height)
    assert mask.sum() == clipped.area
    assert mask_to_box(mask) == (clipped if clipped.area else None)


def test_a_mask_has_every_pixel_that_its_box_touches():
    assert box_to_mask(Box(0.9, 0.1, 2.1, 0.2), 4, 3).tolist() == [
        [True, True, True, False],
        [False] * 4,
        [False] * 4,
    ]
    assert Box(0.9, 0.1, 2.1, 1.5).to_slices(4, 3) == (slice(0, 2), slice(0, 3))


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_the_box_of_a_mask_is_tight(width, height, seed, share):
    mask = np.random.default_rng(seed).random((height, width)) < share * 0.1
    box = mask_to_box(mask)
    if box is None:
        assert not mask.any()
        return
    inside = mask[box.to_slices(width, height)]
    assert inside.sum() == mask.sum()
    for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
        assert edge.any()


def test_mask_iou():
    a, b = np.zeros((2, 4), bool), np.zeros((2, 4), bool)
    assert mask_iou(a, b) == 1.0
    a[0] = True
    assert mask_iou(a, b) == 0.0
    b[:, :2] = True
    assert mask_iou(a, b) == pytest.approx(2 / 6)
    assert mask_iou(a, a) == 1.0
