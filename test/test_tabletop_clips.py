"""Clips: things move as told and never through each other, what is hidden comes back, and all of it again the same."""

from __future__ import annotations

from itertools import islice

import cv2
import numpy as np
import pytest
from clip_tracks import Track, tracks

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.tabletop.clips import EventKind, _surface, render_clip, render_moments, sample_clip
from rsvp_ros.tabletop.demo_clip import BALL, MUG, demo_clip
from rsvp_ros.tabletop.motion import CameraPath, Move, Path
from rsvp_ros.tabletop.rotations import matrix_of_turn
from rsvp_ros.tabletop.scenes import CameraSpec, sample_scene
from rsvp_ros.tabletop.splits import Split
from rsvp_ros.tabletop.world import World

# ---- Motion: numbers only


def test_moves_start_and_end_at_rest():
    move = Move(2.0, 4.0, shift=(1.0, 0.0, 0.0))
    assert [move.share(t) for t in (-1, 2, 3, 4, 9)] == [0, 0, 0.5, 1, 1]
    step = 1e-4
    assert move.share(2 + step) < 1e-9 and 1 - move.share(4 - step) < 1e-9
    assert np.all(np.diff([move.share(t) for t in np.linspace(2, 4, 50)]) > 0)


def test_path_adds_up_its_moves():
    start = np.eye(4)
    start[:3, 3] = 0.1, 0.2, 0.3
    path = Path(start).then(Move(0, 1, (1.0, 0, 0), (0, 0, np.pi / 2)), Move(2, 3, (0, 1.0, 0), (np.pi, 0, 0)))
    np.testing.assert_array_equal(path.pose(0.0), start)
    np.testing.assert_allclose(path.pose(1.5)[:3, 3], (1.1, 0.2, 0.3))
    np.testing.assert_allclose(path.pose(1.5)[:3, 0], (0, 1, 0), atol=1e-12)
    np.testing.assert_allclose(path.end[:3, 3], (1.1, 1.2, 0.3))
    np.testing.assert_allclose(path.end[:3, 0], (0, -1, 0), atol=1e-12)
    np.testing.assert_allclose(path.end[:3, :3] @ path.end[:3, :3].T, np.eye(3), atol=1e-12)


def test_what_rolls_does_not_slip():
    """A ball's point that touches the table stands still; so does its height."""
    radius = 0.04
    directions = np.random.default_rng(0).normal(size=(4000, 3))
    surface = radius * directions / np.linalg.norm(directions, axis=1, keepdims=True)
    start = np.eye(4)
    start[2, 3] = radius
    path = Path(start, (Move(0, 1, (0.3, 0, 0), (0, 0.3 / radius, 0), rolls=True),), surface)
    before, after = path.pose(0.5), path.pose(0.5001)
    touching = np.linalg.inv(before) @ (before[0, 3], 0.0, 0.0, 1.0)
    moved = np.linalg.norm(after[:3, 3] - before[:3, 3])
    assert moved > 5e-5 and np.linalg.norm((after @ touching)[:2] - before[:2, 3]) < moved / 50
    heights = [path.pose(t)[2, 3] for t in np.linspace(0, 1, 20)]
    np.testing.assert_allclose(heights, radius, atol=3e-4)


def test_what_rolls_stays_on_the_table():
    """An apple is no ball: its middle goes up and down, the lowest of its points does not."""
    surface = np.random.default_rng(0).normal(size=(4000, 3))
    surface *= np.array([0.03, 0.04, 0.05]) / np.linalg.norm(surface, axis=1, keepdims=True)
    start = np.eye(4)
    start[2, 3] = 0.049  # as deep in the table as physics left it
    path = Path(start, (Move(0, 1, (0.2, 0, 0), (0, 5.0, 0), rolls=True),), surface)
    poses = [path.pose(t) for t in np.linspace(0, 1, 30)]
    lowest = [(surface @ pose[2, :3]).min() + pose[2, 3] for pose in poses]
    np.testing.assert_allclose(lowest, lowest[0], atol=1e-12)
    assert np.ptp([pose[2, 3] for pose in poses]) > 0.015


def test_camera_swings_and_returns():
    spec = CameraSpec(eye=(0.1, -0.8, 0.6), target=(0.0, 0.0, 0.05), fovy=45.0)
    still = CameraPath(spec, 20.0).camera(7.3, (320, 240))
    np.testing.assert_allclose(still.world_from_optical, spec.camera(320, 240).world_from_optical, atol=1e-12)
    path = CameraPath(spec, 20.0, swing=0.2, approach=0.1, shake=0.002, phase=1.0)
    cameras = [path.camera(t, (320, 240)) for t in np.linspace(0, 20, 401)]
    np.testing.assert_allclose(cameras[0].world_from_optical, cameras[-1].world_from_optical, atol=1e-9)
    eyes = np.array([camera.world_from_optical[:3, 3] for camera in cameras])
    steps = np.linalg.norm(np.diff(eyes, axis=0), axis=1)
    assert 0.003 < steps.max() < 0.012  # a twentieth of a second
    distances = np.linalg.norm(eyes - spec.target, axis=1)
    base = np.linalg.norm(np.subtract(spec.eye, spec.target))
    assert distances.min() < 0.92 * base and distances.max() > 1.08 * base
    azimuth = np.unwrap(np.arctan2(eyes[:, 1], eyes[:, 0]))
    assert np.ptp(azimuth) == pytest.approx(0.4, abs=0.02)
    for camera in cameras[::40]:
        u, v, _ = camera.project(np.array([spec.target]))[0]
        assert abs(u - 159.5) < 3 and abs(v - 119.5) < 3


def test_turns_are_rotations():
    np.testing.assert_allclose(matrix_of_turn((0, 0, np.pi / 2)) @ (1, 0, 0), (0, 1, 0), atol=1e-12)
    np.testing.assert_array_equal(matrix_of_turn((0, 0, 0)), np.eye(3))


def test_good_tracks():
    def track(seen, moved=0.2, area=0.01):
        return Track(1, "ball", "red", np.array(seen, float), np.full(len(seen), area), moved)

    assert track([1, 1, 1, 0.8]).good and not track([1, 1, 1, 0.8]).returns
    assert not track([1, 1, 1, 1], moved=0.0).good
    assert track([1, 1, 0, 1], moved=0.0).good and track([1, 1, 0, 1]).returns
    assert not track([0.2, 1, 1, 1]).good  # who clicks on it in the first image?
    assert not track([1, 0, 0, 0]).good
    assert not track([1, 1, 0.3, 1]).returns
    assert not track([1, 1, 1, 1], area=0.0001).good
    assert tracks([]) == ()


# ---- Clips: MuJoCo draws them

SIZE = (160, 120)


@pytest.fixture(scope="module", params=[(Split.VAL, 1), (Split.TRAIN, 0)], ids=["val 1", "train 0"])
def clip(request, headless_gl):
    return sample_clip(*request.param, seconds=20.0, rate=2.0, size=SIZE)


@pytest.fixture(scope="module")
def views(clip):
    return list(render_clip(clip, start_ns=5_000_000_000))


def test_views_of_a_clip(clip, views):
    assert len(views) == clip.count == 40
    assert [view.stamp_ns for view in views] == [5_000_000_000 + i * 500_000_000 for i in range(40)]
    assert all(view.image.shape == (120, 160, 3) for view in views)
    kinds = {event.kind for event in clip.events}
    assert kinds == set(EventKind)
    for before, after in zip(clip.events, clip.events[1:], strict=False):
        assert before.end_s < after.start_s
    moving = {event.object_id for event in clip.events if event.kind != EventKind.HIDE}
    assert moving == set(clip.paths)
    for thing in views[0].objects:
        places = np.array([view.object(thing.id).position for view in views])
        assert (np.ptp(places, axis=0).max() > 0.05) == (thing.id in moving)


def seen_during(track, event, clip, start, end):
    """What is seen of it between two shares of an event's time."""
    times = np.arange(clip.count) / clip.rate
    length = event.end_s - event.start_s
    return track.seen[(times >= event.start_s + start * length) & (times <= event.start_s + end * length)]


def test_hidden_and_carried_off_and_back(clip, views):
    found = {track.id: track for track in tracks(views)}
    for event in clip.events:
        track = found[event.object_id]
        if event.kind is EventKind.SLIDE:
            continue
        assert seen_during(track, event, clip, 0.47, 0.53).max() <= 0.05, event
        assert track.returns
        before, after = (views[round(t * clip.rate)].object(track.id) for t in (event.start_s, event.end_s))
        np.testing.assert_allclose(before.world_from_object, after.world_from_object, atol=1e-9)
        if event.kind is EventKind.CARRY:
            middle = views[round((event.start_s + event.end_s) / 2 * clip.rate)].object(track.id)
            assert middle.area == 0 and middle.inside == 0
            assert middle.position[2] > before.position[2] + 0.09
    assert any(track.good and track.returns for track in found.values())


def test_nothing_goes_through_anything(clip, views):
    """Seen from above, what is not lifted over all others is apart from them."""
    there = {thing.id for thing in views[0].objects}
    points = {thing.id: _surface(thing)[::5] for thing in clip.scene.objects if thing.id in there}
    half = np.array([clip.scene.table.width, clip.scene.table.depth]) / 2
    moving = {event.object_id: event for event in clip.events if event.kind is not EventKind.HIDE}
    apart = [(i, j) for i in moving for j in points if j != i and not touch_at_rest(points, views, i, j)]
    lowest, reach = {}, {}
    for time_s in np.arange(0, clip.seconds, 0.2):
        solid = {}
        for i, cloud in points.items():
            pose = clip.paths[i].pose(time_s) if i in clip.paths else views[0].object(i).world_from_object
            solid[i] = cloud @ pose[:3, :3].T + pose[:3, 3]
            low = solid[i][:, 2].min()
            assert low > lowest.setdefault(i, low) - 0.002  # never deeper in the table than where physics left it
        for i in moving:
            low = solid[i][:, 2].min()
            reach.setdefault(i, np.maximum(half, np.abs(solid[i][:, :2]).max(0)))  # it may lie over the table's edge
            if low < 0.01:
                assert np.all(np.abs(solid[i][:, :2]) <= reach[i] + 1e-6)
        hulls = {i: cv2.convexHull(solid[i][:, :2].astype(np.float32))[:, 0] for i in moving}
        for i, j in apart:
            below = solid[j][inside(hulls[i], solid[j][:, :2]), 2]
            assert below.max(initial=-1.0) < solid[i][:, 2].min(), (i, j, time_s)


def inside(hull: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Which points lie in a convex polygon, whose corners turn to the left or all to the right."""
    edges = np.roll(hull, -1, 0) - hull
    sides = edges[:, :1] * (points[:, 1] - hull[:, 1:]) - edges[:, 1:] * (points[:, 0] - hull[:, :1])
    return np.all(sides > 0, 0) | np.all(sides < 0, 0)


def touch_at_rest(points, views, i, j) -> bool:
    """Things may lie against each other, or in each other's hull, before anything moves."""
    hulls = []
    for k in (i, j):
        pose = views[0].object(k).world_from_object
        hulls.append(cv2.convexHull((points[k] @ pose[:2, :3].T + pose[:2, 3]).astype(np.float32)))
    return cv2.intersectConvexConvex(*hulls)[0] > 0


def test_gripper_holds_what_it_carries(clip):
    for event in clip.events:
        if event.kind is not EventKind.CARRY:
            continue
        (hand,) = (path for start, end, path in clip.gripper if start == event.start_s)
        thing = clip.paths[event.object_id]
        rest = thing.pose(event.start_s)[2, 3]
        times = np.linspace(event.start_s, event.end_s, 100)
        off_table = [t for t in times if thing.pose(t)[2, 3] > rest + 1e-6]
        assert len(off_table) > 30
        offsets = np.array([hand.pose(t)[:3, 3] - thing.pose(t)[:3, 3] for t in off_table])
        np.testing.assert_allclose(offsets, offsets[:1].repeat(len(offsets), 0), atol=1e-9)
        # Between the fingers, which are 7 cm long.
        solid = _surface(next(o for o in clip.scene.objects if o.id == event.object_id))
        held = np.linalg.inv(hand.pose(off_table[0])) @ thing.pose(off_table[0])
        local = solid @ held[:3, :3].T + held[:3, 3]
        between = np.abs(local) < (0.03, 0.02, 0.08)
        assert np.count_nonzero(between.all(1) & (local[:, 2] < 0)) > 0


def test_the_same_again(clip, views):
    again = sample_clip(clip.scene.split, clip.scene.seed, seconds=20.0, rate=2.0, size=SIZE)
    assert again.events == clip.events and again.camera == clip.camera
    for number, view in enumerate(islice(render_clip(again, start_ns=5_000_000_000), 6)):
        np.testing.assert_array_equal(view.image, views[number].image)
        np.testing.assert_array_equal(view.ids, views[number].ids)
    other = sample_clip(clip.scene.split, clip.scene.seed + 1, seconds=4.0, rate=2.0, size=SIZE)
    assert other.scene != clip.scene


def test_endless_goes_forth_and_back(headless_gl):
    clip = sample_clip(Split.VAL, 4, seconds=2.0, rate=2.0, size=(64, 48))
    views = list(islice(render_clip(clip, endless=True), 9))
    assert [view.stamp_ns for view in views] == [i * 500_000_000 for i in range(9)]
    for number, same in ((4, 2), (5, 1), (6, 0), (7, 1), (8, 2)):
        np.testing.assert_array_equal(views[number].ids, views[same].ids)
        np.testing.assert_array_equal(views[number].camera.world_from_optical, views[same].camera.world_from_optical)
    assert not np.array_equal(views[4].image, views[2].image)  # a camera's noise is never the same


@pytest.mark.parametrize("seed", [1, 2])
def test_moments_show_the_hand(headless_gl, seed):
    """It hides something of what would be seen without it; and the same seed shows the same."""
    views = render_moments(Split.VAL, seed, SIZE, 6)
    again = render_moments(Split.VAL, seed, SIZE, 6)
    assert [view.stamp_ns for view in views] == sorted(view.stamp_ns for view in again)
    assert len({view.stamp_ns for view in views}) == 6
    hidden = 0
    for view, same in zip(views, again, strict=True):
        np.testing.assert_array_equal(view.image, same.image)
        alone = np.stack([thing.full_mask for thing in view.objects]).any(0)
        hidden += np.count_nonzero(alone & (view.ids == 0))  # by nothing but the hand
    assert hidden > 6 * 20


def test_half_of_the_hands_have_other_colors(headless_gl, monkeypatch):
    painted = []
    paint = World.paint_gripper
    monkeypatch.setattr(World, "paint_gripper", lambda *given: painted.append(given[1:]) or paint(*given))
    for seed in range(8):
        render_moments(Split.VAL, seed, (64, 48))
    assert 1 <= len(painted) <= 7
    assert all(0 <= value <= 1 for colors in painted for color in colors for value in color)


def test_a_hand_in_other_colors(headless_gl):
    spec = sample_scene(Split.VAL, 0)
    camera = spec.cameras[0].camera(*SIZE)
    above = np.diag((1.0, -1.0, -1.0, 1.0))  # fingers down
    above[2, 3] = 0.15
    with World(spec, SIZE) as world:
        world.settle()
        world.place_gripper(above)
        gray = world.view(camera, sensor=False)
        world.paint_gripper(shell=(0.9, 0.1, 0.1), joint=(0.1, 0.1, 0.9))
        painted = world.view(camera, sensor=False)
    changed = np.any(gray.image != painted.image, 2)
    assert np.count_nonzero(changed) > 100 and not np.any(changed & (painted.ids > 0))
    red, green, blue = (painted.image[changed].astype(int) - gray.image[changed]).T
    assert np.all(np.minimum(green, np.minimum(red, blue)) < 0)
    assert np.any(red > green) and np.any(blue > green)


def test_lengths_that_cannot_be():
    for seconds, rate in ((0.0, 10.0), (20.0, 0.0), (float("nan"), 10.0), (20.0, 1000.0)):
        with pytest.raises(ConfigurationError, match="images a second"):
            sample_clip(Split.VAL, 0, seconds=seconds, rate=rate)


def test_demo_clip_can_be_made(headless_gl):
    """Its things have room to move as told, and it ends as it begins."""
    clip = demo_clip()
    assert {event.kind for event in clip.events} == set(EventKind)
    first, last = (clip.paths[BALL].pose(t)[:3, 3] for t in (0.0, clip.seconds))
    np.testing.assert_allclose(first, last, atol=1e-4)
    np.testing.assert_allclose(clip.paths[MUG].start, clip.paths[MUG].end, atol=1e-9)
