"""How accurate masks, boxes and positions are. Uses numpy and OpenCV; masks are bool H x W."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from rsvp_ros.geometry import Box, mask_iou

DAVIS_TOLERANCE = 0.008
"""How far a boundary may lie from the true one and still match, as a share of the image's diagonal."""


def mean(values: Iterable[float]) -> float:
    """NaN for no values."""
    values = list(values)
    return sum(values) / len(values) if values else math.nan


def overlap(prediction: np.ndarray, truth: np.ndarray) -> tuple[int, int]:
    """Pixels of the intersection and of the union of two masks."""
    return int(np.count_nonzero(prediction & truth)), int(np.count_nonzero(prediction | truth))


def generalized_iou(overlaps: Iterable[tuple[int, int]]) -> float:
    """gIoU of ReasonSeg: the mean over images of their IoU; NaN for no images.

    overlaps: for each image, pixels of the intersection and of the union of all predicted and all true masks. An image
    without a target counts by LISA's convention: 1 if nothing is predicted, 0 if something is.
    """
    ious = [intersection / union if union else 1.0 for intersection, union in overlaps]
    return float(np.mean(ious)) if ious else float("nan")


def cumulative_iou(overlaps: Iterable[tuple[int, int]]) -> float:
    """cIoU of ReasonSeg: the sum of intersections over the sum of unions; large targets count more. NaN for 0 / 0."""
    intersection, union = np.sum(list(overlaps) or [(0, 0)], axis=0)
    return float(intersection / union) if union else float("nan")


def match_boxes(predicted: Sequence[Box], true: Sequence[Box], threshold: float = 0.5) -> int:
    """Maximum number of pairs of a predicted and a true box with at least this IoU, each box in at most one pair."""
    partner: dict[int, int] = {}  # the predicted box matched to each true one

    def assign(index: int, tried: set[int]) -> bool:
        """Match a predicted box to a true one, rematching others if need be (Kuhn's algorithm)."""
        for other, box in enumerate(true):
            if other in tried or predicted[index].iou(box) < threshold:
                continue
            tried.add(other)
            if other not in partner or assign(partner[other], tried):
                partner[other] = index
                return True
        return False

    return sum(assign(index, set()) for index in range(len(predicted)))


def box_accuracy(predicted: Sequence[Box], true: Sequence[Box], threshold: float = 0.5) -> float:
    """Matched boxes as a share of the true or of the predicted ones, whichever are more: 0 or 1 for one of each.

    Thus both missed and invented targets lower it. 1 if there are neither predicted nor true boxes.
    """
    most = max(len(predicted), len(true))
    return match_boxes(predicted, true, threshold) / most if most else 1.0


def boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels whose right, lower or lower right neighbour is on the mask while they are not, or the other way round.

    This is DAVIS's `seg2bmap` (after Martin's, from the Berkeley segmentation benchmark).
    """
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    right, below, diagonal = padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return (mask != right) | (mask != below) | (mask != diagonal)


def boundary_accuracy(prediction: np.ndarray, truth: np.ndarray, tolerance: float = DAVIS_TOLERANCE) -> float:
    """F of DAVIS 2017: F-measure of precision and recall of the boundary's pixels, within a tolerance.

    tolerance: share of the image's diagonal, rounded up to whole pixels. See Perazzi et al., CVPR 2016, sec. 4.1; their
    code's approximation by dilation is used.
    """
    predicted_edge, true_edge = boundary(prediction), boundary(truth)
    predicted, true = np.count_nonzero(predicted_edge), np.count_nonzero(true_edge)
    if not predicted or not true:
        return float(predicted == true)
    disk = _disk(int(np.ceil(tolerance * np.hypot(*truth.shape))))
    near_truth, near_prediction = (
        cv2.dilate(edge.view(np.uint8), disk).view(bool) for edge in (true_edge, predicted_edge)
    )
    precision = np.count_nonzero(predicted_edge & near_truth) / predicted
    recall = np.count_nonzero(true_edge & near_prediction) / true
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def _disk(radius: int) -> np.ndarray:
    """uint8, odd sides: 1 within a radius of the middle."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return (x * x + y * y <= radius * radius).astype(np.uint8)


def region_and_boundary(predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> tuple[float, float]:
    """J and F of DAVIS 2017 for a target followed through a clip: means over frames of IoU and of the boundary's F.

    A frame in which the target is hidden counts 1 if nothing is predicted, 0 if something is. J&F is the mean of the
    two. Raises ValueError if there are no frames, or not as many predictions as truths.
    """
    if not truths or len(predictions) != len(truths):
        raise ValueError(f"{len(predictions)} predictions for {len(truths)} true masks")
    pairs = list(zip(predictions, truths, strict=True))
    region = np.mean([mask_iou(prediction, truth) for prediction, truth in pairs])
    return float(region), float(np.mean([boundary_accuracy(prediction, truth) for prediction, truth in pairs]))


def shown_objects(masks: Iterable[np.ndarray], ids: np.ndarray) -> frozenset[int]:
    """The objects that the masks fit best (highest IoU); 0 is included if a mask shows none of them.

    ids: H x W, which object is seen in a pixel, 0 for none.
    """
    shown = set()
    sizes = np.bincount(ids.ravel())
    for mask in masks:
        inside = np.bincount(ids[mask], minlength=len(sizes))
        ious = inside / (sizes + np.count_nonzero(mask) - inside).clip(1)
        ious[0] = 0
        shown.add(int(ious.argmax()) if ious.any() else 0)
    return frozenset(shown)
