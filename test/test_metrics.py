"""The benchmark's figures: known answers, properties, and slow but obvious ways to the same numbers."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rsvp_ros.evaluation.metrics import (
    boundary,
    boundary_accuracy,
    box_accuracy,
    cumulative_iou,
    generalized_iou,
    match_boxes,
    overlap,
    region_and_boundary,
    shown_objects,
)
from rsvp_ros.geometry import Box, box_to_mask

MASKS = arrays(bool, (12, 16))
SIDE = st.integers(0, 12)
BOXES = st.lists(st.builds(Box.from_xywh, SIDE, SIDE, st.integers(1, 12), st.integers(1, 12)), max_size=4)


def square(x: int, y: int, side: int, size: tuple[int, int] = (100, 100)) -> np.ndarray:
    return box_to_mask(Box.from_xywh(x, y, side, side), *size)


# --- gIoU and cIoU ----------------------------------------------------------------------------------------------------


def test_giou_is_a_mean_and_ciou_counts_pixels():
    overlaps = [overlap(square(0, 0, 40), square(0, 0, 40)), overlap(square(0, 0, 10), square(0, 5, 10))]
    assert overlaps == [(1600, 1600), (50, 150)]
    assert generalized_iou(overlaps) == pytest.approx((1 + 1 / 3) / 2)
    assert cumulative_iou(overlaps) == pytest.approx(1650 / 1750)


def test_an_empty_target_counts_one_where_nothing_is_predicted():
    nothing = np.zeros((100, 100), bool)
    refused, made_up = overlap(nothing, nothing), overlap(square(0, 0, 5), nothing)
    assert generalized_iou([refused]) == 1
    assert generalized_iou([made_up]) == 0
    assert generalized_iou([refused, made_up]) == 0.5
    assert cumulative_iou([made_up, overlap(square(0, 0, 5), square(0, 0, 5))]) == 0.5
    assert math.isnan(cumulative_iou([refused]))
    assert math.isnan(generalized_iou([]))
    assert math.isnan(cumulative_iou([]))


@given(st.lists(st.tuples(MASKS, MASKS), min_size=1, max_size=4))
def test_both_ious_against_single_pixels(pairs):
    ious, total = [], [0, 0]
    for prediction, truth in pairs:
        both = either = 0
        for p, t in zip(prediction.ravel(), truth.ravel(), strict=True):
            both += p and t
            either += p or t
        ious.append(both / either if either else 1)
        total = [total[0] + both, total[1] + either]
    overlaps = [overlap(*pair) for pair in pairs]
    assert generalized_iou(overlaps) == pytest.approx(np.mean(ious))
    if total[1]:
        assert cumulative_iou(overlaps) == pytest.approx(total[0] / total[1])


# --- boxes ------------------------------------------------------------------------------------------------------------


def test_box_accuracy():
    box, near, far = Box(0, 0, 10, 10), Box(0, 0, 10, 8), Box(50, 50, 60, 60)
    assert box_accuracy([near], [box]) == 1
    assert box_accuracy([far], [box]) == 0
    assert box_accuracy([], [box]) == 0
    assert box_accuracy([box, far], [box]) == 0.5, "one of the two predictions was made up"
    assert box_accuracy([box], [box, far]) == 0.5, "one of the two targets was missed"
    assert box_accuracy([box, near], [box, far]) == 0.5, "two predictions for one target count once"
    assert box_accuracy([], []) == 1
    assert box_accuracy([Box(0, 0, 10, 5)], [box]) == 1, "IoU 0.5 itself is enough"
    assert box_accuracy([Box(0, 0, 10, 4.9)], [box]) == 0
    low, high = Box(0, 3, 10, 13), Box(0, -4, 10, 6)
    assert match_boxes([Box(0, 1, 10, 11), high], [box, low], 0.4) == 2, "the first gives way to the second"


@given(BOXES, BOXES, st.sampled_from((0.1, 0.3, 0.5)))
def test_the_most_pairs_are_matched(predicted, true, threshold):
    few, many = sorted((predicted, true), key=len)
    best = max(
        sum(a.iou(b) >= threshold for a, b in zip(few, order, strict=False)) for order in permutations(many, len(few))
    )
    assert match_boxes(predicted, true, threshold) == best


# --- J and F ----------------------------------------------------------------------------------------------------------


def davis_boundary(seg):
    """`_seg2bmap` of DAVIS 2017's evaluation, step by step."""
    right, below, both = np.zeros_like(seg), np.zeros_like(seg), np.zeros_like(seg)
    right[:, :-1] = seg[:, 1:]
    below[:-1, :] = seg[1:, :]
    both[:-1, :-1] = seg[1:, 1:]
    edge = seg ^ right | seg ^ below | seg ^ both
    edge[-1, :] = seg[-1, :] ^ right[-1, :]
    edge[:, -1] = seg[:, -1] ^ below[:, -1]
    edge[-1, -1] = 0
    return edge


def slow_f(prediction, truth, radius):
    """Share of boundary pixels with one of the other boundary within a radius, by comparing all with all."""
    a, b = (np.argwhere(davis_boundary(mask)) for mask in (prediction, truth))
    if not len(a) or not len(b):
        return float(len(a) == len(b))
    near = ((a[:, None] - b[None]) ** 2).sum(-1) <= radius**2
    precision, recall = near.any(1).mean(), near.any(0).mean()
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@given(MASKS)
def test_boundary_is_that_of_davis(mask):
    assert np.array_equal(boundary(mask), davis_boundary(mask))


@given(MASKS, MASKS, st.sampled_from((0.04, 0.05, 0.12, 0.2)))
@settings(deadline=None)
def test_f_against_all_pairs(prediction, truth, tolerance):
    radius = math.ceil(tolerance * 20)  # the diagonal of 12 x 16
    assert boundary_accuracy(prediction, truth, tolerance) == pytest.approx(slow_f(prediction, truth, radius))
    assert boundary_accuracy(truth, prediction, tolerance) == pytest.approx(slow_f(prediction, truth, radius))


def test_f_forgives_the_tolerance_and_no_more():
    """The diagonal of 320 x 240 is 400 pixels: 0.008 of it are 3.2, rounded up 4."""
    size = (320, 240)
    truth = square(100, 100, 60, size)
    assert boundary_accuracy(square(104, 100, 60, size), truth) == 1
    assert boundary_accuracy(square(105, 100, 60, size), truth) < 0.9
    assert boundary_accuracy(truth, truth) == 1
    assert boundary_accuracy(~truth, truth) == 1, "only where the boundary runs"
    assert boundary_accuracy(square(10, 10, 30, size), truth) == 0
    nothing = np.zeros_like(truth)
    assert boundary_accuracy(nothing, truth) == boundary_accuracy(truth, nothing) == 0
    assert boundary_accuracy(nothing, nothing) == 1


def test_j_and_f_of_a_clip():
    truth, nothing = square(10, 10, 40), np.zeros((100, 100), bool)
    assert region_and_boundary([truth, nothing], [truth, nothing]) == (1, 1)
    assert region_and_boundary([truth, truth], [truth, nothing]) == (0.5, 0.5), "it is hidden, and was seen"
    region, edge = region_and_boundary([truth, square(10, 30, 40)], [truth, truth])
    assert region == pytest.approx((1 + 1 / 3) / 2)
    assert 0.5 < edge < 1
    for frames in ([], [truth]):
        with pytest.raises(ValueError, match="predictions"):
            region_and_boundary([truth] * (2 * len(frames)), frames)


# --- objects ----------------------------------------------------------------------------------------------------------


def test_which_object_a_mask_shows():
    ids = np.zeros((20, 20), np.uint8)
    ids[2:6, 2:6], ids[2:14, 8:18] = 3, 7
    assert shown_objects([ids == 3], ids) == {3}
    assert shown_objects([ids == 7, ids == 3], ids) == {3, 7}
    assert shown_objects([ids > 0], ids) == {7}, "it covers both and fits the larger one best"
    assert shown_objects([ids == 0], ids) == {0}
    assert shown_objects([np.zeros_like(ids, bool)], ids) == {0}
    assert shown_objects([], ids) == frozenset()


@given(arrays(np.uint8, (8, 8), elements=st.integers(0, 4)), arrays(bool, (8, 8)))
def test_the_shown_object_fits_best(ids, mask):
    (shown,) = shown_objects([mask], ids)
    ious = {i: (mask & (ids == i)).sum() / (mask | (ids == i)).sum() for i in range(1, 5) if (ids == i).any()}
    best = max(ious.values(), default=0)
    assert ious[shown] == best if best else shown == 0
