"""What a scene holds: things, table, room, lights, cameras, all sampled from its split and seed. numpy only.

Nothing here has been dropped or rendered yet: `world.World` does both.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.tabletop import backgrounds
from rsvp_ros.tabletop.kinds import CATEGORIES, COLORS, KINDS, TRAINING_KINDS, is_held_out_pair
from rsvp_ros.tabletop.rotations import Quaternion, matrix_of
from rsvp_ros.tabletop.shapes import Shape, build_shape
from rsvp_ros.tabletop.splits import Split
from rsvp_ros.tabletop.view import Camera

OBJECTS = (3, 12)
"""How many things a scene has, at least and at most."""
MOST = 24
"""No table has room for more things than this."""
GAP = 0.006
"""Gap between the boxes around two things before they are dropped, metres."""
DROP = 0.002
"""Height from which a thing is dropped onto the table, metres."""


@dataclass(frozen=True)
class ObjectSpec:
    """A thing and where it is put before physics settles it."""

    id: int
    kind: str
    color: str
    pattern: str
    material: str
    rgb: tuple[float, float, float]
    """The main colour, 0 to 1."""
    shape_seed: int
    position: tuple[float, float, float]
    """Middle of the box around it, world, metres."""
    quaternion: Quaternion
    """w, x, y, z: world from object."""

    @property
    def shape(self) -> Shape:
        return _shape(self.kind, self.shape_seed)


@functools.lru_cache(maxsize=64)
def _shape(kind: str, seed: int) -> Shape:
    return build_shape(kind, np.random.default_rng(seed))


@dataclass(frozen=True)
class TableSpec:
    """A table top; its middle is the world's origin."""

    width: float
    """Along x, metres."""
    depth: float
    """Along y, metres."""
    style: str
    """One of backgrounds.TOPS."""
    texture_seed: int
    turned: bool
    """Whether the texture runs along y."""
    shininess: float
    """0 to 1."""


@dataclass(frozen=True)
class RoomSpec:
    """What is around the table."""

    texture_seed: int
    wall: float | None
    """Distance from the table to the wall behind it, metres; None: no wall, only the sky."""
    sky: tuple[tuple[float, float, float], tuple[float, float, float]]
    """RGB at the zenith and at the horizon."""


@dataclass(frozen=True)
class LightSpec:
    """A distant light."""

    direction: tuple[float, float, float]
    """The direction in which it shines."""
    diffuse: tuple[float, float, float]
    specular: float
    shadow: bool


@dataclass(frozen=True)
class CameraSpec:
    """Where a camera is and how wide it sees."""

    eye: tuple[float, float, float]
    target: tuple[float, float, float]
    fovy: float
    """Angle from the image's top to its bottom, degrees."""

    def camera(self, width: int, height: int) -> Camera:
        """The camera, with images of this size."""
        f = height / 2 / np.tan(np.radians(self.fovy) / 2)
        return Camera(width, height, float(f), look_at(self.eye, self.target))


@dataclass(frozen=True)
class SensorSpec:
    """What a real camera does to an image: see sensor.py."""

    seed: int
    exposure: float
    """Factor on the brightness."""
    white_balance: tuple[float, float, float]
    """Factors on red, green and blue."""
    vignetting: float
    """Share of the light that a corner loses."""
    defocus: float
    """Sigma of the blur, in thousandths of the image's width."""
    motion: tuple[float, float]
    """Motion blur along x and y, in thousandths of the image's width."""
    noise: float
    """Standard deviation at mid grey, in 255ths."""
    quality: int
    """JPEG quality, 1 to 100."""


@dataclass(frozen=True)
class SceneSpec:
    """All that a scene is made of."""

    split: Split
    seed: int
    objects: tuple[ObjectSpec, ...]
    table: TableSpec
    room: RoomSpec
    lights: tuple[LightSpec, ...]
    ambient: tuple[float, float, float]
    """The light that comes from everywhere, RGB."""
    cameras: tuple[CameraSpec, ...]
    """The first is the scene's own, the others look at it from elsewhere."""
    sensor: SensorSpec


def look_at(eye: np.ndarray, target: np.ndarray, up: tuple[float, float, float] = (0, 0, 1)) -> np.ndarray:
    """world_from_optical, float64 4 x 4, of a camera at `eye` that looks at `target`, its image upright."""
    eye = np.asarray(eye, np.float64)
    forward = np.asarray(target, np.float64) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.column_stack((right, np.cross(forward, right), forward))
    pose[:3, 3] = eye
    return pose


@dataclass(frozen=True)
class _Look:
    kind: str
    color: str
    pattern: str


def _colors(split: Split, kind: str) -> list[str]:
    return [c for c in KINDS[kind].colors if not (split.known and is_held_out_pair(kind, c))]


def _draw_looks(split: Split, rng: np.random.Generator, count: int) -> list[_Look]:
    """Kinds with colours that take reasoning to tell apart: some share the kind, some the colour, some a group."""
    looks: list[_Look] = []

    def add(kind: str, color: str | None = None) -> None:
        allowed = _colors(split, kind)
        if color not in allowed:
            taken = {look.color for look in looks if look.kind == kind}
            fresh = [c for c in allowed if c not in taken] or allowed
            held = [c for c in fresh if is_held_out_pair(kind, c)]
            color = str(rng.choice(held if held and rng.random() < 0.25 else fresh))
        look = _Look(kind, color, str(rng.choice(KINDS[kind].patterns)))
        if sum(other.kind == kind for other in looks) < 3 and (look not in looks or rng.random() < 0.05):
            looks.append(look)

    if split is Split.NOVEL:
        unseen = [kind for kind in KINDS if kind not in TRAINING_KINDS]
        for kind in rng.choice(unseen, int(rng.integers(1, 3)), replace=False):
            add(str(kind))
    while len(looks) < count:
        other = looks[int(rng.integers(len(looks)))] if looks else None
        way = rng.random() if other else 1.0
        if way < 0.22 and other.kind in TRAINING_KINDS:
            add(other.kind)
        elif way < 0.40:
            add(str(rng.choice([k for k in TRAINING_KINDS if other.color in KINDS[k].colors])), other.color)
        elif way < 0.55:
            kin = [k for group in CATEGORIES.values() if other.kind in group.members for k in group.members]
            add(str(rng.choice([k for k in kin if k in TRAINING_KINDS] or TRAINING_KINDS)))
        else:
            add(str(rng.choice(TRAINING_KINDS)))
    return looks


def _turned(quaternion: Quaternion, yaw: float) -> Quaternion:
    """The rotation, turned further about the world's z by `yaw`, radians."""
    c, s = np.cos(yaw / 2), np.sin(yaw / 2)
    w, x, y, z = quaternion
    return float(c * w - s * z), float(c * x - s * y), float(c * y + s * x), float(c * z + s * w)


@dataclass(frozen=True)
class _Footprint:
    """A rectangle on the table."""

    middle: np.ndarray
    half: np.ndarray
    yaw: float

    def corners(self) -> np.ndarray:
        c, s = np.cos(self.yaw), np.sin(self.yaw)
        signs = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]])
        return self.middle + (signs * self.half) @ np.array([[c, s], [-s, c]])

    def overlaps(self, other: _Footprint) -> bool:
        a, b = self.corners(), other.corners()
        for yaw in (self.yaw, other.yaw):
            axes = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
            u, v = a @ axes, b @ axes
            if np.any(u.max(0) < v.min(0)) or np.any(v.max(0) < u.min(0)):
                return False
        return True


def _draw_objects(split: Split, seed: int, count: int, table: TableSpec) -> tuple[ObjectSpec, ...]:
    rng = split.generator(seed, "objects")
    looks = _draw_looks(split, rng, count)
    area = rng.choice([0.012, 0.03, 0.055], p=[0.35, 0.35, 0.3])  # square metres per thing: from a heap to a spread
    side = np.sqrt(area * count)
    table_half = np.array([table.width, table.depth]) / 2
    spread = np.minimum([0.7 * side, 0.5 * side], table_half - 0.03)
    middle = rng.uniform(-1, 1, 2) * (table_half - spread - 0.02)
    edgy = set(rng.choice(np.arange(2, count), 1 + int(rng.integers(2)))) if rng.random() < 0.3 and count > 2 else ()
    placed: list[_Footprint] = []
    objects: list[ObjectSpec] = []
    ids = rng.permutation(len(looks)) + 1
    for index, look in enumerate(looks):  # what the split asks for comes first, while there is room
        shape_seed = int(rng.integers(2**31))
        shape = _shape(look.kind, shape_seed)
        rest = shape.rests[int(rng.choice(len(shape.rests), p=[r.probability for r in shape.rests]))]
        points = np.concatenate([part.vertices for part in shape.parts]) @ matrix_of(rest.quaternion).T
        low, high = points[:, :2].min(0), points[:, :2].max(0)
        for attempt in range(80):
            yaw = rng.uniform(0, 2 * np.pi)
            # Things that find no place in the crowd get one beside it
            reach = spread * (1 + attempt / 40)
            spot = np.clip(middle + rng.uniform(-1, 1, 2) * reach, -table_half + 0.03, table_half - 0.03)
            if index in edgy:
                axis = int(rng.integers(2))
                nearer = -1 if axis == 1 or spot[0] < 0 else 1  # the far edge is seldom recognised as an edge
                spot[axis] = nearer * (table_half[axis] - rng.uniform(0.02, 0.05))
            turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
            footprint = _Footprint(spot + turn @ ((low + high) / 2), (high - low) / 2 + GAP / 2, yaw)
            if not any(footprint.overlaps(other) for other in placed):
                break
        else:
            continue  # no room left: leave the thing out
        placed.append(footprint)
        ends = COLORS[look.color]
        share = rng.random()
        objects.append(
            ObjectSpec(
                id=int(ids[index]),
                kind=look.kind,
                color=look.color,
                pattern=look.pattern,
                material=str(rng.choice(KINDS[look.kind].materials)),
                rgb=tuple(float(a + (b - a) * share) for a, b in zip(*ends, strict=True)),
                shape_seed=shape_seed,
                position=(float(spot[0]), float(spot[1]), rest.height + DROP),
                quaternion=_turned(rest.quaternion, yaw),
            )
        )
    order = sorted(objects, key=lambda thing: thing.id)
    return tuple(replace(thing, id=number) for number, thing in enumerate(order, 1))


def _draw_table(split: Split, seed: int) -> TableSpec:
    rng = split.generator(seed, "table")
    known = [style for style in backgrounds.TOPS if style not in backgrounds.HELD_OUT_TOPS]
    weights = np.array([3.0 if style == "wood" else 1.0 for style in known])
    style = str(rng.choice(known, p=weights / weights.sum()))
    if not split.known and rng.random() < 0.4:
        style = str(rng.choice(backgrounds.HELD_OUT_TOPS))
    dull = style in ("cloth", "checked")
    return TableSpec(
        width=float(rng.uniform(0.75, 1.2)),
        depth=float(rng.uniform(0.55, 0.85)),
        style=style,
        texture_seed=int(rng.integers(2**31)),
        turned=bool(rng.random() < 0.25),
        shininess=0.0 if dull else float(rng.uniform(0.05, 0.5)),
    )


def _draw_room(split: Split, seed: int) -> RoomSpec:
    rng = split.generator(seed, "room")
    return RoomSpec(
        texture_seed=int(rng.integers(2**31)),
        wall=float(rng.uniform(0.7, 2.5)) if rng.random() < 0.7 else None,
        sky=(
            tuple(map(float, backgrounds.muted_color(rng))),
            tuple(map(float, backgrounds.muted_color(rng, (0.6, 0.95)))),
        ),
    )


def _draw_lights(split: Split, seed: int) -> tuple[tuple[LightSpec, ...], tuple[float, float, float]]:
    """Nearly white lights, together not too bright for colours to keep their names, and the light from everywhere."""
    rng = split.generator(seed, "lights")
    count = int(rng.integers(1, 4))
    total = rng.uniform(0.55, 0.68)
    shares = np.array([1.0, *rng.uniform(0.25, 0.6, count - 1)])
    shares *= total / shares.sum()
    lights = []
    for index, share in enumerate(shares):
        # From the near half of the room: no wall is in the way
        azimuth, elevation = rng.uniform(-1, 0) * np.pi, np.radians(rng.uniform(40, 80))
        down = -np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
        tint = rng.uniform(-0.04, 0.04)
        color = np.array([1 + tint, 1.0, 1 - tint])
        lights.append(
            LightSpec(
                direction=tuple(map(float, down)),
                diffuse=tuple(map(float, color * share)),
                specular=float(rng.uniform(0.2, 0.5)) * float(share / total),
                shadow=index == 0,  # each shadow costs as much as an image
            )
        )
    return tuple(lights), tuple(map(float, rng.uniform(0.48, 0.56) * (1 + rng.uniform(-0.03, 0.03, 3))))


def _share_inside(camera: CameraSpec, points: np.ndarray) -> float:
    view = camera.camera(320, 240)
    u, v, depth = view.project(points).T
    return float(((depth > 0) & (u > 16) & (u < 304) & (v > 14) & (v < 226)).mean())


def _draw_cameras(split: Split, seed: int, objects: tuple[ObjectSpec, ...], count: int = 3) -> tuple[CameraSpec, ...]:
    """Cameras around the things, the first mostly on the near side; most things are inside each image."""
    rng = split.generator(seed, "cameras")
    points = np.array([thing.position for thing in objects])
    middle = (points.max(0) + points.min(0)) / 2
    cameras = []
    for index in range(count):
        best, most = None, -1.0
        for attempt in range(30):
            azimuth = np.radians(-90) + (rng.normal(0, 0.45) if index == 0 else rng.uniform(-1.7, 1.7))
            elevation = np.radians(30 + 35 * rng.beta(1.0, 1.6))
            distance = min(rng.uniform(0.55, 0.8) + 0.015 * attempt, 1.1)  # as near as possible with most in view
            direction = (
                np.cos(elevation) * np.cos(azimuth),
                np.cos(elevation) * np.sin(azimuth),
                np.sin(elevation),
            )
            target = middle + rng.normal(0, 0.03, 3) * (1, 1, 0.5)
            eye = target + distance * np.array(direction)
            camera = CameraSpec(tuple(map(float, eye)), tuple(map(float, target)), float(rng.uniform(40, 58)))
            share = _share_inside(camera, points)
            if share > most:
                best, most = camera, share
            if share >= 0.85:
                break
        cameras.append(best)
    return tuple(cameras)


def _draw_sensor(split: Split, seed: int) -> SensorSpec:
    rng = split.generator(seed, "sensor")
    tint = rng.normal(0, 0.02, 3)
    return SensorSpec(
        seed=int(rng.integers(2**31)),
        exposure=float(np.exp(rng.normal(0, 0.08))),
        white_balance=tuple(float(1 + t - tint.mean()) for t in tint),
        vignetting=float(rng.uniform(0, 0.18)),
        defocus=float(rng.uniform(0.2, 1.4)),
        motion=tuple(map(float, rng.normal(0, 2.0, 2))) if rng.random() < 0.2 else (0.0, 0.0),
        noise=float(rng.uniform(0.5, 4.0)),
        quality=int(rng.integers(70, 97)),
    )


def sample_scene(split: Split, seed: int, objects: tuple[int, int] | None = None) -> SceneSpec:
    """The scene of a split with this seed (0 or more).

    Args:
        objects: how many things it has, at least and at most; None: OBJECTS. A full table may hold fewer.

    Raises:
        ConfigurationError: the seed or the number of things is out of range.
    """
    low, high = objects or OBJECTS
    if seed < 0 or not 1 <= low <= high <= MOST:
        raise ConfigurationError(
            f"there is no scene {seed} with {low} to {high} things: a seed is 0 or more, and a scene has 1 to {MOST}"
        )
    count = int(split.generator(seed, "count").integers(low, high + 1))
    table = _draw_table(split, seed)
    things = _draw_objects(split, seed, count, table)
    lights, ambient = _draw_lights(split, seed)
    return SceneSpec(
        split=split,
        seed=seed,
        objects=things,
        table=table,
        room=_draw_room(split, seed),
        lights=lights,
        ambient=ambient,
        cameras=_draw_cameras(split, seed, things),
        sensor=_draw_sensor(split, seed),
    )
