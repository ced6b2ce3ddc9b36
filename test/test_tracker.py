"""Motion and the states of a track."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsvp_ros.geometry import Box, box_to_mask, mask_to_box
from rsvp_ros.tracking.appearance import ColorMap, color_distribution, similarity
from rsvp_ros.tracking.motion import ACCELERATION, INITIAL_SPEED, MEASUREMENT_NOISE, BoxMotion
from rsvp_ros.tracking.search import LEAST_COLOR
from rsvp_ros.tracking.tracker import MOST_GIVEN_UP, Tracker, TrackerConfig
from rsvp_ros.types import Prediction, Prompt, RegionProposal, TargetState

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


@pytest.mark.parametrize("is_seen_twice", [True, False])
def test_motion_is_not_taken_for_the_segmenters_bias(is_seen_twice):
    """Also where the second look at the first image misses, so that the target has moved by the next one."""
    box = Box(60, 100, 100, 140)
    tracker = Tracker()
    tracker.start([1], [RegionProposal(box.pad(0.2), "mug")], "")
    for again in (False, True):
        tracker.prompts(0, WIDTH, HEIGHT)
        tracker.update(GREY, [seen(box) if is_seen_twice or not again else unseen()], 0, again)
    box = box.translate(14, 0)
    for step in range(1, 60):
        (prompt,) = tracker.prompts(step * STEP_NS, WIDTH, HEIGHT)
        tracker.update(GREY, [seen(box)], step * STEP_NS)
    assert prompt.box.center == pytest.approx(box.center, abs=2)
    assert prompt.box.intersection(box) == pytest.approx(box.area)


def test_a_target_that_comes_in_from_the_border_gets_the_usual_margins():
    box = Box(0, 100, 50, 150)
    tracker = tracker_on(box)
    for step in range(1, 40):
        (prompt,) = tracker.prompts(step * STEP_NS, WIDTH, HEIGHT)
        assert prompt.box == prompt.box.clip(WIDTH, HEIGHT)
        box = Box(3 * step, 100, 50 + 3 * step, 150)
        tracker.update(GREY, [seen(box)], step * STEP_NS)
    left, right = box.x0 - prompt.box.x0, prompt.box.x1 - box.x1
    assert left == pytest.approx(0.08 * 50, abs=1) and right == pytest.approx(0.08 * 50, abs=1)


def test_what_joins_may_have_been_seen_at_another_size():
    """The camera's images have become twice as large since the result's last one."""
    tracker, other = tracker_on(Box(100, 80, 180, 160)), tracker_on(Box(15, 15, 45, 45))
    large = Box(200, 160, 360, 320)
    tracker.prompts(STEP_NS, 2 * WIDTH, 2 * HEIGHT)
    mask = box_to_mask(large, 2 * WIDTH, 2 * HEIGHT)
    tracker.update(np.full((2 * HEIGHT, 2 * WIDTH, 3), 128, np.uint8), [Prediction(mask, 0.9, 0.9)], STEP_NS)
    tracker.join(other)
    old, new = (prompt.box for prompt in tracker.prompts(2 * STEP_NS, 2 * WIDTH, 2 * HEIGHT))
    assert old.center == pytest.approx(large.center, abs=2)
    assert new.center == pytest.approx((60, 60), abs=2)


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


def distances(start_m: float, end_m: float, speed: float) -> np.ndarray:
    """Of something seen 30 times a second."""
    return np.arange(start_m, end_m, np.sign(end_m - start_m) * speed / 30)


@pytest.mark.parametrize("speed", [0.1, 0.2, 0.4])
@pytest.mark.parametrize(("start_m", "end_m"), [(0.2, 0.8), (0.8, 0.2)], ids=["goes away", "comes near"])
def test_a_target_in_full_view_is_never_lost(start_m, end_m, speed):
    """A thing of 60 mm before a camera in a hand that moves, 600 px its focal length."""
    boxes = [square(60 * 0.6 / d) for d in distances(start_m, end_m, speed)]
    follow_all(boxes)


@pytest.mark.parametrize("seconds", [0.5, 1.0, 2.0, 4.0])
def test_a_bar_that_turns_is_never_lost(seconds):
    angles = np.linspace(0, np.pi / 2, round(seconds * 30))
    sides = [(160 * np.cos(a) + 14 * np.sin(a), 160 * np.sin(a) + 14 * np.cos(a)) for a in angles]
    follow_all([Box.from_xywh(160 - w / 2, 120 - h / 2, w, h) for w, h in sides])


def square(side: float) -> Box:
    return Box.from_xywh(160 - side / 2, 120 - side / 2, side, side)


def follow_all(boxes: list[Box], hidden: int = 15) -> None:
    """Masks without a fault, 30 a second: the target must be seen in each, and once more after a time in which it is
    hidden."""
    tracker = tracker_on(boxes[0])
    for step, box in enumerate(boxes, 1):
        stamp = round(step * 1e9 / 30)
        prompts = tracker.prompts(stamp, WIDTH, HEIGHT)
        tracker.update(GREY, [seen(box.clip(WIDTH, HEIGHT)) for _ in prompts], stamp)
        assert tracker.targets()[0].state is TargetState.TRACKING, f"image {step} of {len(boxes)}: {box}"
    for step in range(len(boxes) + 1, len(boxes) + hidden + 2):
        stamp = round(step * 1e9 / 30)
        prompts = tracker.prompts(stamp, WIDTH, HEIGHT)
        look = seen(boxes[-1].clip(WIDTH, HEIGHT)) if step > len(boxes) + hidden else unseen()
        tracker.update(GREY, [look, *[unseen()] * (len(prompts) - 1)], stamp)
    assert tracker.targets()[0].state is TargetState.TRACKING


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
    tracker = tracker_on(Box(100, 100, 150, 150), lost_after_s=3600.0)
    stamp = 0
    for dt, x, y, width, height, visible in steps:
        stamp += round(dt * 1e9)
        prompts = tracker.prompts(stamp, WIDTH, HEIGHT, reads_text=True)
        assert 1 <= len(prompts) <= 2
        for prompt in prompts:
            assert 0 <= prompt.box.x0 < prompt.box.x1 <= WIDTH
            assert 0 <= prompt.box.y0 < prompt.box.y1 <= HEIGHT
        box = Box.from_xywh(x, y, width, height).clip(WIDTH, HEIGHT)
        tracker.update(GREY, [seen(box) if visible else None] * len(prompts), stamp)
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
    tracker = tracker_on(Box(100, 100, 150, 150), lost_after_s=1.0, give_up_after_s=1.3)
    states = []
    regions = []
    for step in range(1, 15):
        assert tracker.active
        prompts = tracker.prompts(step * STEP_NS, WIDTH, HEIGHT, reads_text=True)
        regions.append(prompts[0].box.area)
        tracker.update(GREY, [prediction] * len(prompts), step * STEP_NS)
        (target,) = tracker.targets()
        assert target.mask is None
        states.append(target.state)
    assert states == [TargetState.OCCLUDED] * 10 + [TargetState.LOST] * 4
    assert regions[5] > regions[1], "the longer unseen, the further it may have got"
    assert not tracker.active
    assert tracker.prompts(15 * STEP_NS, WIDTH, HEIGHT) == []


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
    assert colors.sum(axis=1) == pytest.approx(1)
    assert similarity(colors, colors) == pytest.approx(1)
    assert 0 <= similarity(colors, colors[::-1]) <= 1


@pytest.mark.parametrize("size", [(320, 240), (640, 480), (1920, 1080), (3840, 2160)], ids=str)
def test_a_small_thing_is_found_by_its_colours_among_so_many_places(size):
    """At most as many as a small image has pixels; there, all are looked at."""
    width, height = size
    box = Box.from_xywh(0.6 * width, 0.3 * height, 14, 14)
    image = np.random.default_rng(0).integers(90, 160, (height, width, 3), np.uint8)
    image[box.to_slices(width, height)] = RED
    mask = box_to_mask(box, width, height)
    places = ColorMap(image, color_distribution(image, mask, box), (box.width, box.height), np.zeros_like(mask))
    assert min(width * height, 320 * 240) <= places._values.size <= 640 * 480
    assert places.best(LEAST_COLOR).iou(box) > 0.3


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


# --- Found again ------------------------------------------------------------------------------------------------------

RED, BLUE = (200, 30, 30), (30, 60, 200)


class Scene:
    """Blocks on grey, seen through a segmenter that reads the colour of a description, or through one that does not."""

    def __init__(self, reads_text: bool = True, **config) -> None:
        self.tracker = Tracker(TrackerConfig(**config))
        self.reads_text = reads_text
        self.blocks: dict[Box, tuple[int, int, int]] = {}
        self.step = 0
        self.prompts = []

    def follow(self, *boxes: Box, description: tuple[str, ...] = ("red",)) -> Scene:
        proposals = [RegionProposal(box.pad(0.1), "block", description) for box in boxes]
        self.tracker.start(range(1, len(boxes) + 1), proposals, "")
        for _ in range(2):
            self.look()
        return self

    def show(self, blocks: dict[Box, tuple[int, int, int]], frames: int = 1) -> list[TargetState]:
        """The states of all targets in the last of so many frames."""
        self.blocks = blocks
        for _ in range(frames):
            self.step += 1
            self.look()
        return [target.state for target in self.tracker.targets()]

    def look(self) -> None:
        image = GREY.copy()
        for box, color in self.blocks.items():
            image[box.to_slices(WIDTH, HEIGHT)] = color
        stamp = self.step * STEP_NS
        self.prompts = self.tracker.prompts(stamp, WIDTH, HEIGHT, self.reads_text)
        self.tracker.update(image, [self.segment(prompt) for prompt in self.prompts], stamp)

    def segment(self, prompt) -> Prediction:
        def share(box: Box) -> float:
            return box.intersection(prompt.box) / box.area + box.iou(prompt.box)

        red_only = self.reads_text and "red" in prompt.description
        fits = [box for box, (r, _, b) in self.blocks.items() if share(box) > 0.2 and not (red_only and b > r)]
        if fits:
            return seen(max(fits, key=share).clip(WIDTH, HEIGHT))
        return unseen() if self.reads_text else seen(prompt.box.pad(-0.1))  # one that reads none sees the table


HOME, AWAY = Box(60, 100, 100, 140), Box(240, 60, 280, 100)
BOTH = pytest.mark.parametrize("reads_text", [True, False])


@BOTH
@pytest.mark.parametrize("unseen_frames", [5, 40])
@pytest.mark.parametrize("place", [HOME, AWAY], ids=["where it was", "elsewhere"])
def test_what_was_hidden_or_lost_is_found_again_with_its_id(reads_text, unseen_frames, place):
    scene = Scene(reads_text)
    scene.blocks = {HOME: RED}
    scene.follow(HOME)
    hidden, lost = [TargetState.OCCLUDED], [TargetState.LOST]
    assert scene.show({}, unseen_frames) == (hidden if unseen_frames < 20 else lost)
    if place is AWAY and unseen_frames < 20:
        scene.show({}, 6)  # that far it cannot get in less
    assert scene.show({place: RED}, 5) == [TargetState.TRACKING], "within half a second"
    (target,) = scene.tracker.targets()
    assert (target.id, target.box) == (1, place)
    moved = place.translate(8, 0)
    assert scene.show({moved: RED}) == [TargetState.TRACKING]
    assert scene.tracker.targets()[0].box == moved, "and followed on"


@BOTH
@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (255, 0, 0), (240, 10, 10)], ids=str)
@pytest.mark.parametrize("place", [HOME, AWAY], ids=["where it was", "elsewhere"])
def test_black_white_and_bright_things_are_found_again_too(reads_text, color, place):
    scene = Scene(reads_text)
    scene.blocks = {HOME: color}
    scene.follow(HOME)
    assert scene.show({}, 40) == [TargetState.LOST]
    assert scene.show({place: color}, 10) == [TargetState.TRACKING]


def test_what_fills_the_whole_image_is_not_taken_for_it():
    """Found by its description, as nothing is seen in its place: there is nothing around it to tell it from."""
    large, whole = Box(20, 20, WIDTH - 20, HEIGHT - 20), Box(0, 0, WIDTH, HEIGHT)
    scene = Scene()
    scene.blocks = {large: RED}
    scene.follow(large)
    scene.segment = lambda prompt: seen(whole) if prompt.box == whole else unseen()
    scene.tracker._tracks[0].prompt = lambda *_: Prompt(large, "")
    with np.errstate(all="raise"):
        assert scene.show({whole: RED}, 5) == [TargetState.OCCLUDED]


@BOTH
def test_it_comes_back_into_the_image_where_it_left(reads_text):
    scene = Scene(reads_text)
    scene.blocks = {HOME: RED}
    scene.follow(HOME)
    for step in range(1, 14):
        scene.show({HOME.translate(-8 * step, 0): RED} if step < 12 else {})
    assert scene.show({}, 30) == [TargetState.LOST]
    for step in range(13, 1, -1):
        scene.show({HOME.translate(-8 * step, 0): RED})
    assert scene.show({HOME.translate(-8, 0): RED}) == [TargetState.TRACKING]


@BOTH
@pytest.mark.parametrize("side", [28, 58])
def test_it_is_found_again_when_the_camera_has_come_nearer_or_gone_farther_meanwhile(reads_text, side):
    scene = Scene(reads_text)
    scene.blocks = {HOME: RED}
    scene.follow(HOME)
    scene.show({HOME: RED}, 10)
    scene.show({}, 20)
    assert scene.show({Box.from_xywh(200, 60, side, side): RED}, 8) == [TargetState.TRACKING]


def test_after_a_lasting_change_of_light_it_is_found_again():
    """Its look of the last half minute counts, not that of the first seconds."""
    scene = Scene()
    scene.blocks = {HOME: RED}
    scene.follow(HOME)
    scene.show({HOME: RED}, 20)
    for k in range(100):
        scene.show({HOME: tuple(round(value * (1 - 0.0025 * (k + 1))) for value in RED)})
    dark = tuple(round(0.75 * value) for value in RED)
    assert scene.show({HOME: dark}, 300) == [TargetState.TRACKING]
    assert scene.show({}, 25) == [TargetState.LOST]
    assert scene.show({HOME: dark}, 3) == [TargetState.TRACKING]


@BOTH
def test_where_a_lookalike_was_the_target_itself_may_be_later(reads_text):
    scene = Scene(reads_text)
    scene.blocks = {HOME: RED, AWAY: RED}
    scene.follow(HOME)
    scene.show({HOME: RED, AWAY: RED}, 10)
    assert TargetState.TRACKING not in scene.show({AWAY: RED}, 30)
    scene.show({}, 30)
    assert scene.show({AWAY.translate(10, 5): RED}, 40) == [TargetState.TRACKING]


@BOTH
@pytest.mark.parametrize(
    "color, size", [(BLUE, 40), (RED, 16), (RED, 110)], ids=["another colour", "far too small", "far too large"]
)
def test_what_is_not_like_it_is_not_found(reads_text, color, size):
    scene = Scene(reads_text)
    scene.blocks = {HOME: RED}
    scene.follow(HOME)
    scene.show({}, 30)
    for _ in range(30):
        assert scene.show({Box.from_xywh(180, 60, size, size): color}) == [TargetState.LOST]


@BOTH
def test_what_looks_like_it_and_was_there_before_is_not_taken_for_it(reads_text):
    """Not even when it moves meanwhile."""
    scene = Scene(reads_text)
    scene.blocks = {HOME: RED, AWAY: RED}
    scene.follow(HOME)
    for step in range(40):
        there = AWAY.translate(-min(6 * step % 180, -6 * step % 180), 0)
        (state,) = scene.show({there: RED})
        assert state is not TargetState.TRACKING
    assert scene.show({there: RED, HOME: RED}, 3) == [TargetState.TRACKING]
    assert scene.tracker.targets()[0].box == HOME


@BOTH
@pytest.mark.parametrize("gap", [5, 10, 20, 40])
def test_a_neighbour_is_not_taken_for_what_is_taken_away_beside_it(reads_text, gap):
    """Nobody follows it, it stands within the reach of the hidden target's region, and it was visible all along."""
    beside = HOME.translate(HOME.width + gap, 0)
    scene = Scene(reads_text)
    scene.blocks = {HOME: RED, beside: RED}
    scene.follow(HOME)
    scene.show({HOME: RED, beside: RED}, 10)
    for step in range(60):
        assert scene.show({beside: RED}) != [TargetState.TRACKING], step
    assert scene.show({HOME: RED, beside: RED}, 3) == [TargetState.TRACKING]
    assert scene.tracker.targets()[0].box == HOME


@BOTH
@pytest.mark.parametrize(("size", "speed"), [(16, 300), (16, 450), (24, 450)])
def test_after_a_quick_pan_it_is_found_again(reads_text, size, speed):
    """Farther away than it can have got by itself: the camera turns for half a second, so many pixels a second."""
    box = Box.from_xywh(40, 100, size, size)
    scene = Scene(reads_text)
    scene.blocks = {box: RED}
    scene.follow(box)
    scene.show({box: RED}, 10)
    for step in range(1, 6):
        there = box.translate(speed * step * STEP_NS / 1e9, 0)
        scene.show({there: RED})
    assert scene.tracker.targets()[0].state is not TargetState.TRACKING, "this pan was to be too quick"
    scene.show({there: RED}, 40)
    (target,) = scene.tracker.targets()
    assert (target.id, target.state, target.box) == (1, TargetState.TRACKING, there)


@BOTH
def test_on_something_of_its_own_colours_it_is_found_again(reads_text):
    """In its place and beside it, where the last image with it shows nothing but that colour."""
    table = Box(0, 90, WIDTH, HEIGHT)
    scene = Scene(reads_text)
    scene.segment = lambda prompt: seen(place) if prompt.box.intersection(place) > place.area / 2 else unseen()
    place = HOME
    scene.blocks = {table: RED}
    scene.follow(HOME)
    scene.show({table: RED}, 5)
    for returned in (HOME, HOME.translate(30, 20)):
        place = Box.from_xywh(0, 0, 1, 1)
        assert scene.show({table: RED}, 5) == [TargetState.OCCLUDED]
        place = returned
        assert scene.show({table: RED}) == [TargetState.TRACKING]


@pytest.mark.parametrize("frames", [1, 30])
def test_after_looks_at_a_part_of_it_all_of_it_is_no_other_thing(frames):
    part = Box(HOME.x0, HOME.y0, HOME.x0 + 25, HOME.y0 + 25)
    scene = Scene()
    scene.blocks = {HOME: RED}
    scene.follow(HOME)
    scene.show({HOME: RED}, 10)
    segment = scene.segment
    for look, count in ((seen(part), frames), (unseen(), 1)):
        scene.segment = lambda prompt, look=look: look
        scene.show({HOME: RED}, count)
    scene.segment = segment
    assert scene.show({HOME: RED}) == [TargetState.TRACKING]


@pytest.mark.parametrize("change", ["resolution", "time"])
def test_an_image_of_another_size_or_time_says_nothing_about_what_stood_there(change):
    """The camera is started again with half the resolution, or a bag from its beginning, while the target is hidden."""
    beside = HOME.translate(HOME.width + 5, 0)
    scene = Scene()
    scene.blocks = {HOME: RED, beside: RED}
    scene.follow(HOME)
    scene.show({HOME: RED, beside: RED}, 10)
    scene.show({beside: RED}, 2)
    stamp, share = (5 * STEP_NS, 1.0) if change == "time" else (13 * STEP_NS, 0.5)
    width, height, place = round(share * WIDTH), round(share * HEIGHT), beside.scale(share, share)
    image = np.full((height, width, 3), 128, np.uint8)
    image[place.to_slices(width, height)] = RED
    looks = [
        Prediction(box_to_mask(place, width, height), 0.9, 0.9) for _ in scene.tracker.prompts(stamp, width, height)
    ]
    scene.tracker.update(image, looks, stamp)
    assert scene.tracker.targets()[0].state is TargetState.TRACKING


@BOTH
def test_another_target_is_not_taken_for_a_hidden_one(reads_text):
    """Not where it is, beside the hidden one, and not where it comes to, in that one's place."""
    beside = HOME.translate(60, 0)
    scene = Scene(reads_text)
    scene.blocks = {HOME: RED, beside: RED}
    scene.follow(HOME, beside)
    for step in range(50):
        there = beside.translate(-min(max(2 * step - 30, 0), 60), 0)
        states = scene.show({there: RED})
        assert states[0] is not TargetState.TRACKING, step
        assert states[1] is TargetState.TRACKING, step


def test_a_thing_that_two_targets_name_is_both():
    scene = Scene()
    scene.blocks = {HOME: RED}
    scene.follow(HOME, HOME.pad(0.05))
    assert scene.show({HOME.translate(3, 0): RED}) == [TargetState.TRACKING] * 2
    assert scene.show({}, 4) == [TargetState.OCCLUDED] * 2
    assert scene.show({HOME.translate(3, 0): RED}) == [TargetState.TRACKING] * 2


@pytest.mark.parametrize("is_second_taken", [True, False])
def test_of_two_alike_the_one_that_is_left_is_followed_on(is_second_taken):
    """One is carried off, a hand hides the other for a moment: what is seen then is the one whose place that is."""
    beside = HOME.translate(HOME.width + 20, 0)
    left, taken = (HOME, beside) if is_second_taken else (beside, HOME)
    scene = Scene()
    segment = scene.segment
    scene.segment = lambda prompt: replace(segment(prompt), presence=min(segment(prompt).presence, 0.6))
    scene.blocks = {left: RED, taken: RED}
    scene.follow(HOME, beside)
    scene.show({left: RED, taken: RED}, 10)
    scene.show({left: RED}, 10)
    scene.show({}, 5)
    states = scene.show({left: RED}, 2)
    assert states[0 if left is HOME else 1] is TargetState.TRACKING


def test_what_cannot_be_a_target_takes_nothing_from_another():
    """Two targets' masks are on one thing; one of them is far too unsure to be the target."""
    scene = Scene()
    scene.blocks = {HOME: RED, AWAY: RED}
    scene.follow(HOME, AWAY)
    assert scene.show({HOME: RED, AWAY: RED}, 5) == [TargetState.TRACKING] * 2
    image = GREY.copy()
    image[HOME.to_slices(WIDTH, HEIGHT)] = (180, 40, 40)
    stamp = (scene.step + 1) * STEP_NS
    prompts = scene.tracker.prompts(stamp, WIDTH, HEIGHT)
    looks = [seen(HOME), seen(HOME, presence=0.05), *[unseen()] * (len(prompts) - 2)]
    scene.tracker._tracks[1]._usual_colors = color_distribution(image, looks[0].mask, HOME)  # it fits that better
    scene.tracker.update(image, looks, stamp)
    assert scene.tracker.targets()[0].state is TargetState.TRACKING


def test_two_targets_of_one_thing_are_both_found_elsewhere():
    scene = Scene()
    scene.blocks = {HOME: RED}
    scene.follow(HOME, HOME.pad(0.05))
    assert scene.show({HOME: RED}, 5) == [TargetState.TRACKING] * 2
    scene.show({}, 12)
    assert scene.show({AWAY: RED}, 12) == [TargetState.TRACKING] * 2


def test_one_look_at_a_part_does_not_part_two_targets_of_one_thing():
    tracker = Tracker()
    tracker.start([1, 2], [RegionProposal(HOME.pad(0.1), name) for name in ("cup", "red cup")], "")
    image = GREY.copy()
    image[HOME.to_slices(WIDTH, HEIGHT)] = RED
    part = Box(HOME.x0, HOME.y0, HOME.x0 + 18, HOME.y1)
    for step, second in enumerate((HOME, HOME, HOME, part, HOME, HOME)):
        prompts = tracker.prompts(step * STEP_NS, WIDTH, HEIGHT)
        looks = [seen(HOME), seen(second)] + [unseen()] * (len(prompts) - 2)
        tracker.update(image, looks, step * STEP_NS)
    assert [target.state for target in tracker.targets()] == [TargetState.TRACKING] * 2


def test_one_weak_look_does_not_part_two_targets_of_one_thing():
    tracker = Tracker()
    tracker.start([1, 2], [RegionProposal(HOME.pad(0.1), name) for name in ("cup", "red cup")], "")
    image = GREY.copy()
    image[HOME.to_slices(WIDTH, HEIGHT)] = RED

    def look(*presences: float) -> list[TargetState]:
        look.step += 1
        prompts = tracker.prompts(look.step * STEP_NS, WIDTH, HEIGHT)
        looks = [seen(HOME, presence=presence) for presence in presences]
        looks += [unseen()] * (len(prompts) - len(looks))
        tracker.update(image, looks, look.step * STEP_NS)
        return [target.state for target in tracker.targets()]

    look.step = 0
    both = [TargetState.TRACKING] * 2
    assert look(0.9, 0.9) == look(0.9, 0.9) == both
    assert look(0.1, 0.9) == [TargetState.OCCLUDED, TargetState.TRACKING]
    assert look(0.9, 0.9) == both


def asked_for_again(scene: Scene, block: Box, steps: int) -> Tracker:
    """What a result of so many steps ago carries to a tracker: it last saw the block where that was then."""
    stamp = (scene.step - steps) * STEP_NS
    other = Tracker()
    other.start([2], [RegionProposal(block.pad(0.1), "block", ("red",))], "")
    image = GREY.copy()
    image[block.to_slices(WIDTH, HEIGHT)] = RED
    for _ in range(2):
        prompts = other.prompts(stamp, WIDTH, HEIGHT, scene.reads_text)
        other.update(image, [seen(block) for _ in prompts], stamp)
    return other


@pytest.mark.parametrize("speed", [0, 16], ids=["still", "moving"])
def test_a_thing_that_is_asked_for_again_is_both(speed):
    scene = Scene()
    scene.blocks = {HOME: RED}
    scene.follow(HOME)
    for step in range(1, 7):
        scene.show({HOME.translate(speed * step, 0): RED})
    scene.tracker.join(asked_for_again(scene, HOME.translate(speed * (scene.step - 1), 0), 1))
    for step in range(7, 12):
        assert scene.show({HOME.translate(speed * step, 0): RED}) == [TargetState.TRACKING] * 2


def test_a_thing_that_is_asked_for_again_is_both_though_the_first_look_misses_one():
    scene = Scene()
    scene.blocks = {HOME: RED}
    scene.follow(HOME)
    scene.show({HOME: RED}, 7)
    scene.tracker.join(asked_for_again(scene, HOME, 1))
    segment, looks = scene.segment, []

    def weak_at_first(prompt: Prompt) -> Prediction:
        looks.append(prompt)
        return unseen() if len(looks) == 1 else segment(prompt)

    scene.segment = weak_at_first
    scene.show({HOME: RED})
    assert scene.show({HOME: RED}, 30) == [TargetState.TRACKING] * 2


def test_what_joins_follows_by_the_newest_thresholds():
    scene = Scene()
    scene.tracker.set_config(TrackerConfig(lost_after_s=9.0))
    scene.tracker.join(asked_for_again(scene, HOME, 1))
    assert scene.show({}, 40) == [TargetState.OCCLUDED]


def test_in_a_time_without_images_nothing_is_given_up():
    scene = Scene()
    scene.blocks = {HOME: RED}
    scene.follow(HOME)
    scene.show({HOME: RED}, 10)
    scene.step += 400  # 40 s; it may have been carried anywhere
    assert scene.show({AWAY: RED}, 10) == [TargetState.TRACKING]
    assert scene.tracker.targets()[0].box == AWAY
    scene.show({}, 320)
    assert not scene.tracker.active, "the time in which it was looked for still counts"


def test_what_is_given_up_keeps_no_masks_and_is_not_told_of_for_ever():
    tracker = tracker_on(HOME, give_up_after_s=3.0)
    masks = []
    for step in range(1, 60):
        looks = [unseen() for _ in tracker.prompts(step * STEP_NS, WIDTH, HEIGHT)]
        masks += [weakref.ref(look.mask) for look in looks]
        tracker.update(GREY, looks, step * STEP_NS)
        del looks
    assert not tracker.active and len(masks) > 20
    gc.collect()
    assert not [mask for mask in masks if mask() is not None]
    assert [target.state for target in tracker.targets()] == [TargetState.LOST]
    for _ in range(2 * MOST_GIVEN_UP):
        again = tracker_on(HOME, give_up_after_s=3.0)
        for step in range(1, 60):
            prompts = again.prompts(step * STEP_NS, WIDTH, HEIGHT)
            again.update(GREY, [unseen()] * len(prompts), step * STEP_NS)
        tracker.join(again)
    assert len(tracker) == MOST_GIVEN_UP + 1


def test_of_all_images_only_the_last_with_a_hidden_target_is_kept():
    images = []
    tracker = tracker_on(HOME, give_up_after_s=3.0)

    def look(step: int, *looks: Prediction) -> int:
        image = GREY.copy()
        images.append(weakref.ref(image))
        prompts = tracker.prompts(step * STEP_NS, WIDTH, HEIGHT)
        tracker.update(image, [*looks, *[unseen()] * (len(prompts) - len(looks))], step * STEP_NS)
        del image
        gc.collect()
        return sum(kept() is not None for kept in images)

    assert [look(step, seen(HOME)) for step in range(1, 4)] == [1] * 3
    assert [look(step) for step in range(4, 30)] == [1] * 26
    assert images[2]() is not None
    for step in range(30, 40):
        kept = look(step)
    assert not tracker.active and kept == 0


def test_looking_costs_one_prompt_a_frame_at_most_and_none_while_all_are_seen():
    scene = Scene()
    places = [Box.from_xywh(20 + 70 * i, 100, 40, 40) for i in range(4)]
    scene.blocks = dict.fromkeys(places, RED)
    scene.follow(*places)
    for _ in range(5):
        scene.show(dict.fromkeys(places, RED))
        assert len(scene.prompts) == 4
    sought = set()
    for _ in range(12):
        scene.show({places[0]: RED})
        assert len(scene.prompts) <= 5
        sought.add(id(scene.tracker._sought))
    scene.show({places[0]: RED})
    assert len(sought) == 4, "none at first, then each of the three in turn"


def test_what_a_few_looks_showed_is_not_what_the_target_looks_like():
    """Under an arm a mask may be on the arm for a moment: the target's own look is remembered."""
    scene = Scene(min_similarity=0.0)
    scene.blocks = {HOME: RED}
    scene.follow(HOME, description=())
    scene.show({HOME: RED}, 10)
    assert scene.show({HOME: BLUE}, 10) == [TargetState.TRACKING], "the colours were to have no say"
    scene.show({}, 25)
    assert scene.show({Box(180, 180, 220, 220): BLUE, AWAY: RED}, 8) == [TargetState.TRACKING]
    assert scene.tracker.targets()[0].box == AWAY
