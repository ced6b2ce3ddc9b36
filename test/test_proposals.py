"""Bands, marks, boxes and points into regions with a score."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsvp_ros.errors import ParseError
from rsvp_ros.geometry import Box, RegionGrid
from rsvp_ros.reasoning.parsing import Answer, Finding
from rsvp_ros.reasoning.proposals import propose

GRID = RegionGrid(9, 9, 900, 450)
"""Cells of 100 x 50 pixels."""


def proposal(padding=0.2, grid=GRID, **finding):
    (result,) = propose(Answer(present=True, findings=(Finding("cup", **finding),)), grid, padding)
    return result


def test_absent_gives_nothing():
    assert propose(Answer(present=False), GRID) == ()


def test_present_without_a_region_is_refused():
    with pytest.raises(ParseError, match="but not where"):
        propose(Answer(present=True), GRID)


def test_bands_give_their_bounding_region_padded():
    result = proposal(rows=(3, 5), columns=(4,), attributes=("red",), reason="so")
    assert result.box.as_tuple() == pytest.approx((280, 70, 420, 280))
    assert (result.rows, result.columns, result.score) == ((3, 5), (4,), 1.0)
    assert (result.name, result.attributes, result.reason) == ("cup", ("red",), "so")
    assert proposal(rows=(3, 5), columns=(4,), padding=0.0).box == Box(300, 100, 400, 250)


def test_padding_stays_in_the_image():
    assert proposal(rows=(1,), columns=(9,)).box == Box(780, 0, 900, 60)


def test_rows_alone_span_the_width_and_columns_alone_the_height():
    assert proposal(rows=(2,), padding=0.0).box == Box(0, 50, 900, 100)
    assert proposal(columns=(2,), padding=0.0).box == Box(100, 0, 200, 450)


def test_marks_are_cells_of_the_grid():
    result = proposal(marks=(1, 11), padding=0.0)
    assert result.box == Box(0, 0, 200, 100)
    assert (result.rows, result.columns) == ((1, 2), (1, 2))
    wide = RegionGrid(2, 3, 300, 200)
    assert proposal(marks=(6,), padding=0.0, grid=wide).box == Box(200, 100, 300, 200)


def test_a_box_alone_is_padded_less():
    result = proposal(box=Box(400, 200, 500, 300))
    assert result.box == Box(395, 195, 505, 305)
    assert (result.rows, result.columns, result.score) == ((), (), 1.0)


def test_a_box_that_fills_its_bands_has_score_one():
    result = proposal(box=Box(310, 105, 395, 195), rows=(3, 4), columns=(4,), padding=0.0)
    assert result.box == Box(310, 105, 395, 195)
    assert result.score == pytest.approx(1.0)


def test_a_box_that_only_touches_the_next_band_does_not_span_it():
    assert proposal(box=Box(295, 98, 404, 206), rows=(3, 4), columns=(4,)).score > 0.9


def test_the_score_falls_with_the_agreement():
    box = Box(300, 100, 400, 200)
    scores = [
        proposal(box=box, rows=rows, columns=columns).score
        for rows, columns in [((3, 4), (4,)), ((3, 4), (4, 5)), ((4, 5), (4,)), ((4, 5), (5,)), ((8, 9), (9,))]
    ]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) >= 4
    assert scores[0] == pytest.approx(1.0)
    assert scores[1] == pytest.approx(0.75)  # all of the box is inside, half of the region is the box's
    assert scores[2] == pytest.approx((0.5 + 1 / 3) / 2)
    assert scores[-1] == 0.0


def test_where_box_and_bands_contradict_each_other_the_region_holds_both():
    box = Box(0, 0, 90, 45)
    result = proposal(box=box, rows=(9,), columns=(9,), padding=0.0)
    assert result.box == Box(0, 0, 900, 450)
    assert result.score == 0.0


def test_a_point_alone_is_a_cell_around_it():
    assert proposal(point=(450, 225), padding=0.0).box == Box(400, 200, 500, 250)
    assert proposal(point=(899.5, 0), padding=0.0).box == Box(800, 0, 900, 50)


def test_a_point_in_its_bands_leaves_their_region():
    result = proposal(point=(350, 130), rows=(3,), columns=(4,), padding=0.0)
    assert result.box == Box(300, 100, 400, 150)
    assert result.score > 0.5
    far = proposal(point=(50, 25), rows=(9,), columns=(9,), padding=0.0)
    assert far.box == Box(0, 0, 900, 450)
    assert far.score == 0.0


def test_ids_that_are_not_on_the_grid_are_dropped():
    result = proposal(rows=(0, 3, 12), columns=(4, 10), padding=0.0)
    assert (result.rows, result.columns) == ((3,), (4,))
    assert result.box == Box(300, 100, 400, 150)
    assert proposal(marks=(1, 0, 83), padding=0.0).box == Box(0, 0, 100, 50)


def test_a_box_whose_bands_are_not_on_the_grid_is_doubted():
    result = proposal(box=Box(400, 200, 500, 300), rows=(12,), columns=(13,))
    assert result.score == 0.5
    assert (result.rows, result.columns) == ((), ())


def test_findings_without_a_place_are_dropped_and_none_left_is_refused():
    lost, good = Finding("lost", rows=(12,), columns=(0,), text="{rows 12}"), Finding("good", rows=(1,), columns=(1,))
    assert [p.name for p in propose(Answer(present=True, findings=(lost, good)), GRID)] == ["good"]
    with pytest.raises(ParseError, match=r"rows 1 to 9 and columns 1 to 9: \{rows 12\}"):
        propose(Answer(present=True, findings=(lost,)), GRID)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_regions_lie_in_the_image_and_hold_the_box(data):
    width, height = data.draw(st.integers(2, 4000)), data.draw(st.integers(2, 4000))
    grid = RegionGrid(data.draw(st.integers(1, 13)), data.draw(st.integers(1, 13)), width, height)
    ids = st.lists(st.integers(-2, 20), max_size=5).map(tuple)
    xs = sorted(data.draw(st.tuples(st.floats(0, width), st.floats(0, width))))
    ys = sorted(data.draw(st.tuples(st.floats(0, height), st.floats(0, height))))
    box = Box(xs[0], ys[0], xs[1], ys[1])
    finding = Finding(
        rows=data.draw(ids),
        columns=data.draw(ids),
        marks=data.draw(ids),
        box=data.draw(st.sampled_from([box, None])) if box.area >= 1 else None,
        point=data.draw(st.none() | st.tuples(st.floats(0, width - 0.5), st.floats(0, height - 0.5))),
    )
    try:
        (result,) = propose(Answer(present=True, findings=(finding,)), grid, data.draw(st.floats(0, 1)))
    except ParseError:
        assert finding.box is None
        assert finding.point is None
        return
    assert 0 <= result.box.x0 < result.box.x1 <= width
    assert 0 <= result.box.y0 < result.box.y1 <= height
    assert 0 <= result.score <= 1
    if finding.box:
        assert result.box.intersection(finding.box) == pytest.approx(finding.box.area)
    elif result.rows and result.columns and not finding.point:
        region = grid.box(result.rows, result.columns)
        assert result.box.intersection(region) == pytest.approx(region.area)
