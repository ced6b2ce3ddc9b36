"""Clips: a scene in which things are slid along the table, carried off and brought back, and hidden by a robot's arm,
in front of a moving camera.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.tabletop.kinds import ROLLS_LYING, ROUND
from rsvp_ros.tabletop.motion import CameraPath, Move, Path
from rsvp_ros.tabletop.scenes import ObjectSpec, SceneSpec, sample_scene
from rsvp_ros.tabletop.splits import Split
from rsvp_ros.tabletop.view import Camera, View
from rsvp_ros.tabletop.world import World

OBJECTS = (4, 9)
"""How many things a clip's scene has: there must be room left to move."""
CLEARANCE = 0.004
"""Gap between what moves along the table and everything else, metres."""
GRIP = 0.028
"""Half of the space between the gripper's fingers, metres."""
FINGER_REACH = 0.045
"""From the middle between the fingers to their outsides, metres."""
PALM = 0.06
"""From the fingertips to where the palm is too wide to go between things, metres."""
FOREARM = (0.19, 0.66)
"""Where the forearm begins and ends behind the fingertips, metres; it is round."""
FOREARM_RADIUS = 0.045

MOMENTS_S = 17.0
"""Length of a clip that moments are taken from: enough for each kind of event."""


class EventKind(enum.Enum):
    """What can happen to a thing."""

    SLIDE = "slide"
    """It slides along the table, or rolls if it is round; if possible, past something that hides it from the camera."""
    CARRY = "carry"
    """The gripper takes it out of the image, and puts it back after a while."""
    HIDE = "hide"
    """The robot's arm comes between it and the camera."""


@dataclass(frozen=True)
class Event:
    """Something that happens to a thing."""

    kind: EventKind
    object_id: int
    start_s: float
    end_s: float


@dataclass(frozen=True, eq=False)
class Clip:
    """A scene and all that happens in it."""

    scene: SceneSpec
    size: tuple[int, int]
    """Width and height of the images, pixels."""
    seconds: float
    rate: float
    """Images a second."""
    camera: CameraPath
    paths: dict[int, Path]
    """Paths of the things that move, by id."""
    gripper: tuple[tuple[float, float, Path], ...]
    """From when to when (s) the gripper is there, and its path."""
    events: tuple[Event, ...]

    @property
    def count(self) -> int:
        """How many views it has."""
        return max(1, round(self.seconds * self.rate))


def sample_clip(
    split: Split, seed: int, seconds: float = 20.0, rate: float = 10.0, size: tuple[int, int] = (320, 240)
) -> Clip:
    """The clip of a split with this seed: its scene, and as many events as there is time for.

    Args:
        size: width and height of the images.

    Raises:
        ConfigurationError: the length or rate is out of range; MuJoCo or a library to draw with is not installed.
    """
    rng = split.generator(seed, "clip")
    scene = sample_scene(split, seed, OBJECTS)
    swing, approach, shake = (
        float(rng.uniform(0.4, 1.0) * most) if rng.random() < often else 0.0
        for most, often in ((0.25, 0.7), (0.12, 0.5), (0.004, 0.5))
    )
    camera = CameraPath(scene.cameras[0], seconds, swing, approach, shake, float(rng.uniform(0, 2 * np.pi)))
    kinds = [EventKind.CARRY, EventKind.HIDE, EventKind.SLIDE]
    kinds = [kinds[i] for i in rng.permutation(3)] + [EventKind.SLIDE]
    return plan_clip(scene, camera, seconds, rate, size, rng, kinds)


LENGTHS = {EventKind.SLIDE: 2.5, EventKind.CARRY: 8.0, EventKind.HIDE: 4.0}
"""How long an event takes, seconds."""
PAUSE = 0.5
"""Between two events, seconds."""
_CARRY = {
    "come": (0.0, 0.12),
    "reach": (0.12, 0.18),
    "lift": (0.21, 0.32),
    "off": (0.27, 0.45),
    "back": (0.53, 0.71),
    "lower": (0.67, 0.79),
    "leave": (0.83, 1.0),
}
"""What the gripper does: start and end of each step, as shares of the event's time."""


def plan_clip(
    scene: SceneSpec,
    camera: CameraPath,
    seconds: float,
    rate: float,
    size: tuple[int, int],
    rng: np.random.Generator,
    kinds: list[EventKind],
) -> Clip:
    """A clip with events of these kinds in turn until the time is over; they happen to things that `rng` chooses among
    those to which they can happen. Raises ConfigurationError."""
    if not (0.1 <= rate <= 240 and 0.1 <= seconds <= 3600):
        raise ConfigurationError(
            f"a clip has 0.1 to 240 images a second for 0.1 to 3600 s, got {rate:g} for {seconds:g}"
        )
    with World(scene, size) as world:
        world.settle()
        plan = Plan(world, camera, size)
    now, number, failures = PAUSE, 0, 0
    while failures < len(kinds):
        kind = kinds[number % len(kinds)]
        number += 1
        length = LENGTHS[kind]
        if now + length + PAUSE > seconds or not plan.add_somewhere(kind, now, now + length, rng):
            failures += 1
            continue
        failures = 0
        now += length + PAUSE
    return Clip(scene, size, seconds, rate, camera, plan.paths, tuple(plan.gripper), tuple(plan.events))


def render_clip(clip: Clip, endless: bool = False, start_ns: int = 0) -> Iterator[View]:
    """A clip's views, stamped with `start_ns` plus their time in the clip; `endless`: back and forth for ever.

    Raises:
        ConfigurationError: MuJoCo or a library to draw with is not installed.
    """
    with World(clip.scene, clip.size) as world:
        world.settle()
        number = 0
        while endless or number < clip.count:
            shown = number % max(2 * clip.count - 2, 1)
            time_s = min(shown, 2 * clip.count - 2 - shown) / clip.rate if endless else number / clip.rate
            _place_all(world, clip, time_s)
            stamp_ns = start_ns + round(number * 1e9 / clip.rate)
            yield world.view(clip.camera.camera(time_s, clip.size), full_masks=False, stamp_ns=stamp_ns)
            number += 1


def render_moments(split: Split, seed: int, size: tuple[int, int] = (320, 240), count: int = 1) -> list[View]:
    """Random moments of a clip, `count` of them, at which the robot's hand or arm is in sight if it ever is; in half of
    the clips it has other colours.

    Raises:
        ConfigurationError: MuJoCo or a library to draw with is not installed; the seed is out of range.
    """
    clip, rng = sample_clip(split, seed, MOMENTS_S, size=size), split.generator(seed, "moments")
    times = np.arange(0, clip.seconds, 0.05)
    seen = [t for t in times if _hand_in_sight(clip, t)]
    chosen = np.sort(rng.choice(seen if len(seen) >= count else times, count, replace=False))
    with World(clip.scene, size) as world:
        world.settle()
        if rng.random() < 0.5:
            world.paint_gripper(*(rng.uniform(0.03, 0.95) + rng.normal(0, 0.15, (2, 3))).clip(0, 1))
        views = []
        for time_s in chosen:
            _place_all(world, clip, time_s)
            views.append(world.view(clip.camera.camera(time_s, size), stamp_ns=round(time_s * 1e9)))
        return views


def _place_all(world: World, clip: Clip, time_s: float) -> None:
    """Put the things and the gripper where they are at this time."""
    for object_id, path in clip.paths.items():
        world.place(object_id, path.pose(time_s))
    world.place_gripper(_hand_at(clip, time_s))


def _hand_at(clip: Clip, time_s: float) -> np.ndarray | None:
    """The gripper's pose; None: it is not there."""
    return next((path.pose(time_s) for start, end, path in clip.gripper if start <= time_s <= end), None)


def _hand_in_sight(clip: Clip, time_s: float) -> bool:
    """Whether the gripper, or the end of its forearm, is inside the image."""
    hand = _hand_at(clip, time_s)
    if hand is None:
        return False
    along = hand[:3, 3] - hand[:3, 2] * np.linspace(0, FOREARM[0] + 0.1, 7)[:, None]
    u, v, depth = clip.camera.camera(time_s, clip.size).project(along).T
    return bool(np.any((depth > 0.05) & (u > 0) & (u < clip.size[0] - 1) & (v > 0) & (v < clip.size[1] - 1)))


# ---- Planning


class Plan:
    """Events that can happen one after the other in a settled scene."""

    def __init__(self, world: World, camera: CameraPath, size: tuple[int, int]) -> None:
        self.things: dict[int, ObjectSpec] = dict(world.objects)
        self.paths: dict[int, Path] = {}
        """Paths of what moves, by id."""
        self.gripper: list[tuple[float, float, Path]] = []
        self.events: list[Event] = []
        self._rest = world.poses
        self._table = np.array([world.spec.table.width, world.spec.table.depth]) / 2
        self._camera, self._size = camera, size
        self._points = {i: _surface(thing) for i, thing in self.things.items()}

    def path(self, object_id: int) -> Path:
        """A thing's path as planned so far."""
        return self.paths.get(object_id) or Path(self._rest[object_id], surface=self._points[object_id])

    def pose(self, object_id: int) -> np.ndarray:
        """Where a thing is after all that is planned so far."""
        return self.path(object_id).end

    def camera(self, time_s: float) -> Camera:
        return self._camera.camera(time_s, self._size)

    def add_somewhere(self, kind: EventKind, start_s: float, end_s: float, rng: np.random.Generator) -> bool:
        """Plan an event for one of the things in sight; False: it can happen to none. Things that have had most
        events come last."""
        often = {i: sum(event.object_id == i for event in self.events) for i in self.things}
        for object_id in sorted(rng.permutation(list(self.things)).tolist(), key=often.get):
            if self._in_sight(object_id, self.pose(object_id), self.camera(start_s)):
                event = Event(kind, object_id, start_s, end_s)
                if self.add(event, rng):
                    return True
        return False

    def add(self, event: Event, rng: np.random.Generator) -> bool:
        """Plan an event after those planned so far; False: it cannot happen."""
        plan = {EventKind.SLIDE: self._slide, EventKind.CARRY: self._carry, EventKind.HIDE: self._hide}
        done = plan[event.kind](event, rng)
        if done:
            self.events.append(event)
        return done

    def slide(self, event: Event, shift: tuple[float, float], yaw: float = 0.0) -> bool:
        """Plan for a thing to slide along the table by `shift`, metres, turning by `yaw`, radians; a round one rolls.
        False: something is in the way."""
        path = self._slid(event, shift, yaw)
        if path is None:
            return False
        self.paths[event.object_id] = path
        self.events.append(event)
        return True

    def _slid(self, event: Event, shift: tuple[float, float], yaw: float) -> Path | None:
        thing, pose = self.things[event.object_id], self.pose(event.object_id)
        turn = np.array([0.0, 0.0, yaw])
        axis = _rolls_about(thing, pose)
        if axis is not None:
            across = np.array([-shift[1], shift[0], 0.0])  # a ball that moves along x turns about y
            radius = pose[2, 3]
            turn = across / radius if not axis.any() else axis * (axis @ across) / radius
        move = Move(event.start_s, event.end_s, (*map(float, shift), 0.0), tuple(map(float, turn)), axis is not None)
        path = self.path(thing.id).then(move)
        others = [_outline(self._points[i], self.pose(i)) for i in self.things if i != thing.id]
        # If something is in the way, it is mostly at the end: look there first.
        for time_s in np.linspace(event.end_s, event.start_s, 25):
            outline = _outline(self._points[thing.id], path.pose(time_s))
            if np.any(np.abs(outline) > self._table - 0.01) or any(_near(outline, o, CLEARANCE) for o in others):
                return None
        return path

    def _slide(self, event: Event, rng: np.random.Generator) -> bool:
        """Of the free ways, take the one on which others hide most of the thing."""
        object_id = event.object_id
        axis = _rolls_about(self.things[object_id], self.pose(object_id))
        best, score = None, -1.0
        for _ in range(40):
            angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.12, 0.40)
            shift = distance * np.array([np.cos(angle), np.sin(angle)])
            if axis is not None and axis.any():
                shift = np.array([-axis[1], axis[0]]) * distance * rng.choice([-1, 1])
            path = self._slid(event, shift, 0.0 if axis is not None else float(rng.uniform(-1.2, 1.2)))
            if path is None or not self._in_sight(object_id, path.end, self.camera(event.end_s)):
                continue
            times = np.linspace(event.start_s, event.end_s, 9)
            hidden = [self._covered(object_id, path.pose(t), self.camera(t)) for t in times]
            value = max(hidden) - hidden[-1] + distance
            if value > score:
                best, score = path, value
        if best is not None:
            self.paths[object_id] = best
        return best is not None

    def _carry(self, event: Event, rng: np.random.Generator) -> bool:
        pose, points = self.pose(event.object_id), self._points[event.object_id]
        solid = points @ pose[:3, :3].T + pose[:3, 3]
        outline = _outline(points, pose)
        if any(_near(outline, _outline(self._points[i], self.pose(i)), 0) for i in self.things if i != event.object_id):
            return False  # something may lie on it, or in it
        grasp = _grasp(solid, pose[:3, 3])
        if grasp is None:
            return False
        tip, fingers = grasp
        if not self._hand_fits(event.object_id, tip, fingers):
            return False
        camera = self.camera((event.start_s + event.end_s) / 2)
        right = camera.world_from_optical[:3, 0] * (1, 1, 0)
        right /= np.linalg.norm(right)
        side = right if camera.project(pose[None, :3, 3])[0, 0] > camera.width / 2 else -right
        # The forearm leans to the side from which it came, and away from the camera.
        away = camera.world_from_optical[:3, 2] * (1, 1, 0)
        lean = 0.45 * side + 0.35 * away / np.linalg.norm(away)
        hand = _hand(tip, -np.array([0, 0, 1.0]) - lean, fingers)
        up = np.array([0, 0, self._lift_over(event.object_id, side)])
        length = event.end_s - event.start_s
        gone = [event.start_s + share * length for share in (_CARRY["off"][1], _CARRY["back"][0])]
        distance = self._distance_out(solid, hand, up, side, gone)
        if distance is None:
            return False
        off = side * distance
        shifts = {"come": -off, "reach": -up, "lift": up, "off": off, "back": -off, "lower": -up, "leave": up + off}
        moves = {
            name: Move(event.start_s + start * length, event.start_s + end * length, tuple(map(float, shifts[name])))
            for name, (start, end) in _CARRY.items()
        }
        start = hand.copy()
        start[:3, 3] += up + off
        self.gripper.append((event.start_s, event.end_s, Path(start, tuple(moves.values()))))
        carried = [moves[name] for name in ("lift", "off", "back", "lower")]
        self.paths[event.object_id] = self.path(event.object_id).then(*carried)
        return True

    def _hide(self, event: Event, rng: np.random.Generator) -> bool:
        """The forearm lies across the line of sight, like that of a robot reaching for something else."""
        pose = self.pose(event.object_id)
        solid = self._points[event.object_id] @ pose[:3, :3].T + pose[:3, 3]
        length = event.end_s - event.start_s
        middle = event.start_s + 0.5 * length
        camera = self.camera(middle)
        eye, axes = camera.world_from_optical[:3, 3], camera.world_from_optical[:3, :3]
        aim = pose[:3, 3]
        # Half the extent that it must cover across and along the arm, at the thing's distance.
        local = (solid - eye) @ axes
        reach = float(np.linalg.norm(aim - eye))
        across, along = (float(np.ptp(local[:, i] / local[:, 2])) / 2 * reach + 0.008 for i in (1, 0))
        side = axes[:, 0] if camera.project(aim[None])[0, 0] > camera.width / 2 else -axes[:, 0]
        for share in np.arange(min(0.8, FOREARM_RADIUS / across), 0.3, -0.03):  # near the thing, it hides less else
            spot = eye + share * (aim - eye)
            hand = _hand(spot - side * (FOREARM[0] + share * along), -side, axes[:, 1])
            elbow = camera.project(hand[None, :3, 3] - FOREARM[1] * hand[:3, 2])[0, 0]
            if spot[2] > self._tallest() + 0.05 and not -10 < elbow < camera.width + 10:
                break
        else:
            return False
        out = side * 1.1
        start = hand.copy()
        start[:3, 3] += out
        a, b = event.start_s + 0.3 * length, event.end_s - 0.3 * length
        self.gripper.append(
            (
                event.start_s,
                event.end_s,
                Path(
                    start,
                    (
                        Move(event.start_s, a, tuple(map(float, -out))),
                        Move(b, event.end_s, tuple(map(float, out))),
                    ),
                ),
            )
        )
        return True

    def _tallest(self) -> float:
        """How high the things reach, metres."""
        return max((self._points[i] @ self.pose(i)[2, :3]).max() + self.pose(i)[2, 3] for i in self.things)

    def _in_sight(self, object_id: int, pose: np.ndarray, camera: Camera) -> bool:
        """Whether all of it is inside the image."""
        u, v, depth = camera.project(self._points[object_id] @ pose[:3, :3].T + pose[:3, 3]).T
        return bool(
            depth.min() > 0.1
            and min(u.min(), v.min()) > 3
            and u.max() < camera.width - 4
            and v.max() < camera.height - 4
        )

    def _covered(self, object_id: int, pose: np.ndarray, camera: Camera) -> float:
        """About how much of it others hide, 0 to 1, judged by convex hulls in the image."""

        def hull(i: int, where: np.ndarray) -> tuple[np.ndarray, float]:
            seen = camera.project(self._points[i] @ where[:3, :3].T + where[:3, 3])
            return cv2.convexHull(seen[:, :2].astype(np.float32)), float(seen[:, 2].mean())

        own, distance = hull(object_id, pose)
        most = 0.0
        for i in self.things:
            if i != object_id:
                other, its_distance = hull(i, self.pose(i))
                if its_distance < distance:
                    most = max(most, cv2.intersectConvexConvex(own, other)[0] / cv2.contourArea(own))
        return most

    def _hand_fits(self, object_id: int, tip: np.ndarray, fingers: np.ndarray) -> bool:
        """Whether nothing else is where the fingers and the palm go."""
        across = np.array([-fingers[1], fingers[0]])
        along = fingers[:2]

        def area(half_along: float, half_across: float) -> np.ndarray:
            signs = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]])
            return tip[:2] + signs[:, :1] * half_along * along + signs[:, 1:] * half_across * across

        for i in self.things:
            if i == object_id:
                continue
            pose = self.pose(i)
            solid = self._points[i] @ pose[:3, :3].T + pose[:3, 3]
            for above, space in ((tip[2], area(FINGER_REACH, 0.012)), (tip[2] + PALM, area(0.06, 0.06))):
                high = solid[solid[:, 2] > above - 0.005]
                if len(high) > 2 and _near(cv2.convexHull(high[:, :2].astype(np.float32))[:, 0], space, 0.003):
                    return False
        return True

    def _lift_over(self, object_id: int, side: np.ndarray) -> float:
        """How high a thing must be lifted to pass over all that is to one side of it, metres."""
        outline = _outline(self._points[object_id], self.pose(object_id))
        way = cv2.convexHull(np.concatenate((outline, outline + side[:2])).astype(np.float32))[:, 0]
        highest = 0.07
        for i in self.things:
            pose = self.pose(i)
            if i != object_id and _near(way, _outline(self._points[i], pose), 0.02):
                highest = max(highest, (self._points[i] @ pose[2, :3]).max() + pose[2, 3])
        return float(highest) + 0.03

    def _distance_out(
        self, solid: np.ndarray, hand: np.ndarray, up: np.ndarray, side: np.ndarray, times: list[float]
    ) -> float | None:
        """How far to the side the hand must go so that it and what it holds are out of the image at these times."""
        wrist = hand[:3, 3] - hand[:3, 2] * np.linspace(0, 0.15, 4)[:, None]
        points = np.concatenate((solid, wrist)) + up
        for distance in np.arange(0.3, 1.6, 0.05):
            images = [self.camera(time_s).project(points + side * distance) for time_s in times]
            if not any(np.any((d > 0.05) & (u > -6) & (u < self._size[0] + 6)) for u, _, d in (i.T for i in images)):
                return float(distance) + 0.05
        return None


def _surface(thing: ObjectSpec, count: int = 600) -> np.ndarray:
    """Points all over a thing, N x 3 in its own frame: its vertices and random points on its faces."""
    rng = np.random.default_rng(thing.shape_seed)
    points = []
    for part in thing.shape.parts:
        corners = part.vertices[part.faces].astype(np.float64)
        areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
        chosen = corners[rng.choice(len(corners), count, p=areas / areas.sum())]
        weights = rng.dirichlet((1, 1, 1), count)
        points += [np.einsum("nij,ni->nj", chosen, weights), part.vertices.astype(np.float64)]
    return np.concatenate(points)


def _outline(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """The convex hull of the area that a thing covers on the table, seen from above, N x 2."""
    flat = points @ pose[:2, :3].T + pose[:2, 3]
    return cv2.convexHull(flat.astype(np.float32))[:, 0].astype(np.float64)


def _near(a: np.ndarray, b: np.ndarray, distance: float) -> bool:
    """Whether two convex polygons may be nearer to each other than `distance`."""
    for polygon in (a, b):
        edges = np.roll(polygon, -1, 0) - polygon
        normals = np.column_stack((edges[:, 1], -edges[:, 0]))
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        along_a, along_b = a @ normals.T, b @ normals.T
        gaps = np.maximum(along_b.min(0) - along_a.max(0), along_a.min(0) - along_b.max(0))
        if gaps.max() >= distance:
            return False
    return True


def _rolls_about(thing: ObjectSpec, pose: np.ndarray) -> np.ndarray | None:
    """The axis about which a thing rolls, world, unit length; zeros: about any axis; None: it does not roll."""
    if thing.kind in ROUND.members:
        return np.zeros(3)
    axis = pose[:3, 2]
    if thing.kind in ROLLS_LYING.members and abs(axis[2]) < 0.1:
        axis = axis * (1, 1, 0)
        return axis / np.linalg.norm(axis)
    return None


def _hand(tip: np.ndarray, pointing: np.ndarray, fingers: np.ndarray) -> np.ndarray:
    """A pose for `World.place_gripper`: tips at `tip`, pointing along `pointing`, fingers roughly along `fingers`."""
    z = pointing / np.linalg.norm(pointing)
    x = fingers - z * (fingers @ z)
    x /= np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3, :3] = np.column_stack((x, np.cross(z, x), z))
    pose[:3, 3] = tip
    return pose


def _grasp(solid: np.ndarray, middle: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Where the fingertips grasp a thing from above, and the direction from finger to finger; None: nowhere.

    The grasp is as deep as fingers and palm can go. `solid`: points all over the thing, world.
    """
    best = None
    top = solid[:, 2].max()
    for angle in np.arange(0, np.pi, np.pi / 12):
        fingers = np.array([np.cos(angle), np.sin(angle), 0.0])
        along = (solid - middle) @ fingers
        across = (solid - middle) @ np.array([-fingers[1], fingers[0], 0.0])
        between = np.abs(across) < 0.014
        if not between.any():
            continue
        near, far = along[between].min(), along[between].max()
        # Around its middle, or around a mug's wall with one finger inside.
        for offset in ((near + far) / 2, near + 0.004, far - 0.004):
            aside = np.abs(along - offset)
            blocking = solid[between & (aside > GRIP) & (aside < FINGER_REACH), 2]
            low = max(blocking.max(initial=0.004) + 0.002, top - PALM, 0.006)
            held = solid[between & (aside < GRIP), 2].max(initial=0.0)
            if held - low > 0.008 and (best is None or low < best[0] - 0.002):
                best = low, middle + offset * fingers, fingers
    if best is None:
        return None
    low, spot, fingers = best
    return np.array([spot[0], spot[1], low]), fingers
