"""Motion and the states of a track."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsvp_ros.geometry import Box, box_to_mask, mask_to_box
from rsvp_ros.tracking.appearance import color_distribution, similarity
from rsvp_ros.tracking.motion import ACCELERATION, INITIAL_SPEED, MEASUREMENT_NOISE, BoxMotion
from rsvp_ros.tracking.tracker import Tracker, TrackerConfig
from rsvp_ros.types import Prediction, RegionProposal, TargetState

WIDTH, HEIGHT = 320, 240
STEP_NS = 100_000_000
GREY = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)


def seen(box: Box, score: float = 0.9, presence: float = 0.9) -> Prediction:
    return Prediction(box_to_mask(box, WIDTH, HEIGHT), score, presence)


def unseen() -> Prediction:
    return Prediction(np.zeros((HEIGHT, WIDTH), bool), 0.9, 0.05)


def tracker_on(box: Box, **config) -> Tracker:
    tracker = Tracker(TrackerConfig(**config))
    tracker.start([7], [RegionProposal(box.pad(0.2).clip(WIDTH, HEIGHT), "mug", ("red",))], "the red mug")
    for _ in range(2):  # as the streaming system does it: once more, to learn how region and mask lie to each other
        tracker.prompts(0, WIDTH, HEIGHT)
        tracker.update(GREY, [seen(box)], 0)
    return tracker


def test_motion_learns_a_constant_velocity():
    motion = BoxMotion(Box(10, 20, 50, 60))
    for step in range(1, 20):
        motion.predict(0.1)
        motion.update(Box(10 + 5 * step, 20, 50 + 5 * step, 60))
    motion.predict(0.1)
    assert motion.box.center[0] == pytest.approx(30 + 5 * 20, abs=0.5)
    assert motion.box.center[1] == pytest.approx(40, abs=0.5)


def test_motion_is_the_kalman_filter_of_the_books():
    """Against the same filter written with matrices, on random data."""
    rng = np.random.default_rng(0)
    motion = BoxMotion(Box(10, 20, 50, 60))
    x = np.array([30.0, 0.0])
    p = np.diag([(MEASUREMENT_NOISE * 40) ** 2, (INITIAL_SPEED * 40) ** 2])
    measure = np.array([[1.0, 0.0]])
    for _ in range(30):
        dt = rng.uniform(0.01, 0.4)
        noise = (ACCELERATION * 40) ** 2 * np.array([[dt**4 / 4, dt**3 / 2], [dt**3 / 2, dt**2]])
        step = np.array([[1.0, dt], [0.0, 1.0]])
        x, p = step @ x, step @ p @ step.T + noise
        motion.predict(dt)
        z = 30 + rng.normal(0, 3)
        gain = p @ measure.T / (measure @ p @ measure.T + (MEASUREMENT_NOISE * 40) ** 2)
        x, p = x + gain[:, 0] * (z - x[0]), (np.eye(2) - gain @ measure) @ p
        motion.update(Box(z - 20, 20, z + 20, 60))
        assert motion._center[0] == pytest.approx(x[0])
        assert motion._velocity[0] == pytest.approx(x[1])
        assert motion._vv[0] == pytest.approx(p[1, 1])


def test_a_half_hidden_target_keeps_its_size():
    """Something slides over it from the right within a second, stays for one, and leaves again."""
    motion = BoxMotion(Box(100, 100, 180, 180))
    for shown in (*np.linspace(80, 30, 10), *[30] * 10):
        motion.predict(0.1)
        motion.update(Box(100, 100, 100 + shown, 180))
    assert motion.box.width > 60
    assert motion.box.height == pytest.approx(80)
    for _ in range(10):
        motion.predict(0.1)
        motion.update(Box(100, 100, 180, 180))
    assert motion.box.iou(Box(100, 100, 180, 180)) > 0.9


def test_a_target_that_comes_near_grows():
    motion = BoxMotion(Box(100, 100, 140, 140))
    for size in np.linspace(40, 80, 30):
        motion.predict(0.1)
        motion.update(Box(140 - size / 2, 140 - size / 2, 140 + size / 2, 140 + size / 2))
    assert motion.box.width > 60


def test_unseen_it_slows_down():
    motion = BoxMotion(Box(0, 0, 40, 40))
    for step in range(20):
        motion.predict(0.1)
        motion.update(Box(4 * step, 0, 40 + 4 * step, 40))
    before = motion.box.center[0]
    for _ in range(50):
        motion.predict(0.1, seen=False)
    assert before < motion.box.center[0] < before + 80, "at 40 px a second it would have gone 200"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.floats(-1, 5),
            st.floats(-500, 800),
            st.floats(-500, 800),
            st.floats(0, 600),
            st.floats(0, 600),
            st.booleans(),
        ),
        max_size=30,
    )
)
def test_prompts_are_always_boxes_inside_the_image(steps):
    tracker = tracker_on(Box(100, 100, 150, 150), lost_after_s=1e9)
    stamp = 0
    for dt, x, y, width, height, visible in steps:
        stamp += round(dt * 1e9)
        (prompt,) = tracker.prompts(stamp, WIDTH, HEIGHT)
        assert 0 <= prompt.box.x0 < prompt.box.x1 <= WIDTH
        assert 0 <= prompt.box.y0 < prompt.box.y1 <= HEIGHT
        box = Box.from_xywh(x, y, width, height).clip(WIDTH, HEIGHT)
        tracker.update(GREY, [seen(box) if visible else None], stamp)
        (target,) = tracker.targets()
        assert 0 <= target.box.x0 <= target.box.x1 <= WIDTH
        assert 0 <= target.box.y0 <= target.box.y1 <= HEIGHT


def test_the_prompt_leads_a_moving_target():
    tracker = tracker_on(Box(50, 100, 90, 140))
    for step in range(1, 8):
        tracker.prompts(step * STEP_NS, WIDTH, HEIGHT)
        tracker.update(GREY, [seen(Box(50 + 15 * step, 100, 90 + 15 * step, 140))], step * STEP_NS)
    (prompt,) = tracker.prompts(8 * STEP_NS, WIDTH, HEIGHT)
    assert prompt.description == "mug, red"
    assert prompt.box.center[0] == pytest.approx(70 + 15 * 8, abs=4)
    # Nothing lost of the target, nothing of half its size besides.
    assert prompt.box.x0 < 170
    assert prompt.box.width < 60


@pytest.mark.parametrize(
    "prediction",
    [
        unseen(),
        None,
        seen(Box(100, 100, 150, 150), score=0.05),
        seen(Box(100, 100, 150, 150), presence=0.1),
        seen(Box(0, 0, 320, 240)),
        seen(Box(100, 100, 105, 105)),
    ],
    ids=["empty", "failed", "low score", "low presence", "far too large", "far too small"],
)
def test_what_is_not_the_target_is_occluded_then_lost_then_left_alone(prediction):
    tracker = tracker_on(Box(100, 100, 150, 150), lost_after_s=1.0)
    states = []
    regions = []
    for step in range(1, 12):
        (prompt,) = tracker.prompts(step * STEP_NS, WIDTH, HEIGHT)
        regions.append(prompt.box.area)
        tracker.update(GREY, [prediction], step * STEP_NS)
        (target,) = tracker.targets()
        assert target.mask is None
        states.append(target.state)
    assert states == [TargetState.OCCLUDED] * 10 + [TargetState.LOST]
    assert regions[5] > regions[1], "the longer unseen, the further it may have got"
    assert tracker.lost
    assert not tracker.active
    assert tracker.prompts(12 * STEP_NS, WIDTH, HEIGHT) == []


def test_back_from_occlusion_with_the_same_id():
    tracker = tracker_on(Box(100, 100, 150, 150))
    tracker.prompts(STEP_NS, WIDTH, HEIGHT)
    tracker.update(GREY, [unseen()], STEP_NS)
    tracker.prompts(2 * STEP_NS, WIDTH, HEIGHT)
    tracker.update(GREY, [seen(Box(104, 100, 154, 150))], 2 * STEP_NS)
    (target,) = tracker.targets()
    assert (target.id, target.state) == (7, TargetState.TRACKING)
    assert target.box == Box(104, 100, 154, 150)
    assert target.age_ns == 2 * STEP_NS


def test_what_has_other_colours_is_not_the_target():
    box = Box(100, 100, 150, 150)
    blue = GREY.copy()
    blue[box.to_slices(WIDTH, HEIGHT)] = (30, 60, 200)
    tracker = Tracker()
    tracker.start([1], [RegionProposal(box, "mug")], "")
    states = []
    for step, image in enumerate((blue, blue, GREY, (blue * 0.9).astype(np.uint8), GREY, blue)):
        tracker.prompts(step * STEP_NS, WIDTH, HEIGHT)
        tracker.update(image, [seen(box)], step * STEP_NS)
        states.append(tracker.targets()[0].state)
    tracking, occluded = TargetState.TRACKING, TargetState.OCCLUDED
    assert states == [tracking, tracking, occluded, tracking, occluded, tracking]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 2**31))
def test_colour_distributions(width, height, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (240, 320, 3), np.uint8)
    mask = np.zeros((240, 320), bool)
    mask[10 : 10 + height, 20 : 20 + width] = rng.random((height, width)) < 0.5
    mask[10, 20] = True
    colors = color_distribution(image, mask, mask_to_box(mask))
    assert colors.shape == (3, 16)
    assert np.all(colors.sum(axis=1) <= 1 + 1e-9)
    assert similarity(colors, colors) > 0.6  # bins at the ends share with none beyond
    assert 0 <= similarity(colors, colors[::-1]) <= 1


def test_a_second_look_takes_nothing_back():
    box = Box(100, 100, 150, 150)
    tracker = Tracker()
    tracker.start([1], [RegionProposal(box, "mug")], "")
    tracker.prompts(0, WIDTH, HEIGHT)
    tracker.update(GREY, [seen(box)], 0)
    tracker.prompts(0, WIDTH, HEIGHT)
    tracker.update(GREY, [unseen()], 0, again=True)
    (target,) = tracker.targets()
    assert target.state is TargetState.TRACKING
    assert target.mask is not None
