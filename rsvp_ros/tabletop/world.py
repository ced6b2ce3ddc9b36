"""A scene brought to life: dropped on the table, moved about, looked at."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

import numpy as np

from rsvp_ros.geometry import Box, mask_to_box
from rsvp_ros.tabletop import backgrounds
from rsvp_ros.tabletop.rendering import Renderer, load_mujoco
from rsvp_ros.tabletop.scenes import ObjectSpec, SceneSpec, sample_scene
from rsvp_ros.tabletop.sensor import expose
from rsvp_ros.tabletop.splits import Split
from rsvp_ros.tabletop.surfaces import paint
from rsvp_ros.tabletop.view import Camera, ObjectView, View

# MuJoCo's geom groups: each is shown or hidden as a whole
ROOM, SEEN, SET_ASIDE, TOUCHED, GRIPPER = 0, 1, 2, 3, 4

TIMESTEP = 0.004
STILL = 0.02
"""The scene has settled when everything stays slower than this (m/s and rad/s) for STILL_STEPS steps."""
STILL_STEPS = 10
MAX_STEPS = 400
FALLING = 0.15
"""A thing that still moves down faster than this at the end, m/s, is on its way to the floor."""
FLOOR = -0.74
"""Height of the floor below the table top, metres."""
THICKNESS = 0.03
"""Thickness of the table top, metres."""
AFAR = (0.35, 0.35, 0.35, 1.0), 1.4
"""Colour and emission of floor and wall: they glow a little, so shadows on them, stray specks included, are faint."""
PARKED = (0.0, 0.0, -50.0)
"""Where no camera looks."""


class World:
    """A compiled scene: a context manager, to be used in the thread that made it.

    At first everything hangs just above the table, where the scene's spec puts it; `settle` lets it come to rest.
    """

    def __init__(self, spec: SceneSpec, size: tuple[int, int] = (320, 240)) -> None:
        """
        Args:
            size: width and height of the largest image that will be asked for.

        Raises:
            ConfigurationError: MuJoCo or a library to draw with is not installed.
        """
        self._mujoco = load_mujoco()
        self.spec = spec
        self.objects: dict[int, ObjectSpec] = {thing.id: thing for thing in spec.objects}
        """By id; `settle` removes what has fallen off the table."""
        self._model = _compile(self._mujoco, spec)
        self._data = self._mujoco.MjData(self._model)
        model = self._model
        self._body = {thing.id: model.body(f"object {thing.id}").id for thing in spec.objects}
        self._qpos = {i: int(model.jnt_qposadr[model.body_jntadr[body]]) for i, body in self._body.items()}
        self._gripper = int(model.body_mocapid[model.body("gripper").id])
        owner = np.zeros(model.nbody, np.uint8)
        for i, body in self._body.items():
            owner[body] = i
        self._owner = np.append(owner[model.geom_bodyid], 0).astype(np.uint8)  # the last entry stands for "no geom", -1
        self._painted = {
            i: np.flatnonzero((model.geom_bodyid == body) & (model.geom_group == SEEN))
            for i, body in self._body.items()
        }
        self._mujoco.mj_forward(model, self._data)
        self._renderer = Renderer(self._mujoco, model, size)

    def __enter__(self) -> World:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the OpenGL resources. Poses can still be read."""
        self._renderer.close()

    def settle(self, max_steps: int = MAX_STEPS) -> int:
        """Let physics act until everything lies still, then remove what fell off the table. Returns the steps."""
        still, steps = 0, 0
        while steps < max_steps and still < STILL_STEPS:
            self._mujoco.mj_step(self._model, self._data)
            steps += 1
            still = still + 1 if np.abs(self._data.qvel).max(initial=0) < STILL else 0
        for i in list(self.objects):
            dof = self._model.body_dofadr[self._body[i]]
            if self._data.qvel[dof + 2] < -FALLING:  # the floor stops nothing, so it never lands
                self.place(i, _moved(PARKED))
                del self.objects[i]
        self._data.qvel[:] = 0
        self._mujoco.mj_forward(self._model, self._data)
        return steps

    @property
    def poses(self) -> dict[int, np.ndarray]:
        """world_from_object by id, float64 4 x 4; the origin is the middle of the box around the object."""
        poses = {}
        for i in self.objects:
            pose = np.eye(4)
            pose[:3, :3] = self._data.xmat[self._body[i]].reshape(3, 3)
            pose[:3, 3] = self._data.xpos[self._body[i]]
            poses[i] = pose
        return poses

    def place(self, object_id: int, pose: np.ndarray) -> None:
        """Put an object at `pose`, world_from_object 4 x 4, without physics.

        Raises:
            KeyError: no such object.
        """
        start = self._qpos[object_id]
        self._data.qpos[start : start + 3] = pose[:3, 3]
        self._mujoco.mju_mat2Quat(
            self._data.qpos[start + 3 : start + 7], np.ascontiguousarray(pose[:3, :3]).reshape(-1)
        )
        self._mujoco.mj_kinematics(self._model, self._data)

    def place_gripper(self, pose: np.ndarray | None) -> None:
        """Put the robot's hand at `pose`, world_from_gripper 4 x 4: z points from its forearm to its fingertips, x from
        finger to finger, and the origin is between the tips. None removes it."""
        pose = _moved(PARKED) if pose is None else pose
        self._data.mocap_pos[self._gripper] = pose[:3, 3]
        self._mujoco.mju_mat2Quat(self._data.mocap_quat[self._gripper], np.ascontiguousarray(pose[:3, :3]).reshape(-1))
        self._mujoco.mj_kinematics(self._model, self._data)

    def paint_gripper(self, shell: Sequence[float], joint: Sequence[float]) -> None:
        """Give the robot's hand other colours, RGB from 0 to 1: of arm and palm, and of fingers and wrist."""
        for name, rgb in (("shell", shell), ("joint", joint)):
            self._model.material(name).rgba[:3] = rgb

    def view(self, camera: Camera, *, full_masks: bool = True, sensor: bool = True, stamp_ns: int = 0) -> View:
        """What a camera sees now.

        Args:
            full_masks: whether each object's `full_mask` is kept.
            sensor: whether the image has a real camera's faults.

        Raises:
            ValueError: the camera's image is larger than `size`.
            RuntimeError: the world is closed, or another thread made it.
        """
        image = self._renderer.image(self._data, camera, (ROOM, SEEN, GRIPPER))
        geoms, depth = self._renderer.geoms(self._data, camera, (ROOM, SEEN, GRIPPER))
        ids = self._owner[geoms]
        if sensor:
            pose = zlib.crc32(np.ascontiguousarray(camera.world_from_optical).tobytes())
            image = expose(image, self.spec.sensor, np.random.default_rng([self.spec.sensor.seed, pose, stamp_ns]))
        poses = self.poses
        outlines = {i: self._outline(i, pose, camera) for i, pose in poses.items()}
        full = self._full_masks(camera, outlines, ids)
        objects = []
        for i, thing in self.objects.items():
            seen, whole = ids == i, full[i]
            area = int(np.count_nonzero(seen))
            objects.append(
                ObjectView(
                    id=i,
                    kind=thing.kind,
                    color=thing.color,
                    pattern=thing.pattern,
                    material=thing.material,
                    dimensions=thing.shape.dimensions,
                    world_from_object=poses[i],
                    upright=bool(poses[i][2, 2] > np.cos(np.radians(30))),
                    box=mask_to_box(seen),
                    area=area,
                    visible=area / max(int(np.count_nonzero(whole)), 1),
                    inside=_share_inside(outlines[i], camera),
                    full_mask=whole if full_masks else None,
                )
            )
        table = (self.spec.table.width, self.spec.table.depth)
        return View(image, depth, ids, camera, tuple(objects), table, stamp_ns)

    def _outline(self, object_id: int, pose: np.ndarray, camera: Camera) -> Box | None:
        """Box around an object's whole silhouette, pixels, even outside the image; None if it is behind the camera."""
        vertices = np.concatenate([part.vertices for part in self.objects[object_id].shape.parts])
        u, v, depth = camera.project(vertices @ pose[:3, :3].T + pose[:3, 3]).T
        if depth.min() <= 0.01:
            return None
        return Box(u.min() + 0.5, v.min() + 0.5, u.max() + 0.5, v.max() + 0.5)

    def _full_masks(self, camera: Camera, outlines: dict[int, Box | None], ids: np.ndarray) -> dict[int, np.ndarray]:
        """What would be visible of each object if it were alone on the table.

        Objects far enough apart in the image are drawn together.
        """
        rounds: list[list[int]] = []
        masks = {}
        for i, outline in outlines.items():
            if outline is None or outline.clip(camera.width, camera.height).area == 0:
                masks[i] = np.zeros((camera.height, camera.width), bool)
                continue
            for members in rounds:
                if not any(_touch(outline, outlines[other]) for other in members):
                    members.append(i)
                    break
            else:
                rounds.append([i])
        every = np.concatenate([self._painted[i] for i in self.objects]) if self.objects else np.zeros(0, int)
        for members in rounds:
            self._model.geom_group[every] = SET_ASIDE
            self._model.geom_group[np.concatenate([self._painted[i] for i in members])] = SEEN
            alone = self._owner[self._renderer.geoms(self._data, camera, (ROOM, SEEN))[0]]
            masks.update({i: alone == i for i in members})
        self._model.geom_group[every] = SEEN
        return masks


def _touch(a: Box, b: Box) -> bool:
    return min(a.x1, b.x1) + 1 >= max(a.x0, b.x0) and min(a.y1, b.y1) + 1 >= max(a.y0, b.y0)


def _share_inside(outline: Box | None, camera: Camera) -> float:
    if outline is None or outline.area == 0:
        return 0.0
    return outline.clip(camera.width, camera.height).area / outline.area


def _moved(position: Iterable[float]) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, 3] = position
    return pose


def render_scene(
    split: Split,
    seed: int,
    size: tuple[int, int] = (320, 240),
    views: int = 1,
    full_masks: bool = True,
    objects: tuple[int, int] | None = None,
) -> list[View]:
    """A settled scene of a split, seen by the first `views` (1 to 3) of its cameras; `size`: width and height.

    Raises:
        ConfigurationError: MuJoCo or a library to draw with is not installed; the seed or a number is out of range.
    """
    spec = sample_scene(split, seed, objects)
    with World(spec, size) as world:
        world.settle()
        return [world.view(camera.camera(*size), full_masks=full_masks) for camera in spec.cameras[:views]]


# ---- From a scene's spec to MuJoCo's model


def _compile(mujoco, spec: SceneSpec):
    """MjModel of a scene."""
    draft = mujoco.MjSpec()
    draft.option.timestep = TIMESTEP
    draft.option.iterations = 20
    draft.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    draft.stat.extent, draft.stat.center = 1.0, (0, 0, 0)
    draft.visual.map.shadowclip = 2.0
    root = draft.worldbody
    root.add_camera(name="eye")
    _add_table(mujoco, draft, spec)
    _add_room(mujoco, draft, spec)
    _add_lights(mujoco, draft, spec)
    for thing in spec.objects:
        _add_object(mujoco, draft, thing)
    _add_gripper(mujoco, draft)
    return draft.compile()


def _add_material(mujoco, draft, name: str, image: np.ndarray | None, rgb=(1, 1, 1), specular=0.0, shininess=0.5):
    material = draft.add_material(name=name, rgba=(*rgb, 1), specular=specular, shininess=shininess)
    if image is not None:
        height, width = image.shape[:2]
        texture = draft.add_texture(
            name=name, type=mujoco.mjtTexture.mjTEXTURE_2D, width=width, height=height, nchannel=3
        )
        texture.data = np.ascontiguousarray(image[::-1]).tobytes()  # the picture's first row is v = 1
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name
    return material


def _add_table(mujoco, draft, spec: SceneSpec) -> None:
    table = spec.table
    image = backgrounds.table_top(table.style, np.random.default_rng(table.texture_seed))
    if table.turned:
        image = np.ascontiguousarray(image.transpose(1, 0, 2))
    _add_material(mujoco, draft, "top", image, specular=table.shininess, shininess=0.6)
    root = draft.worldbody
    half = (table.width / 2, table.depth / 2)
    root.add_geom(
        name="top",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=(*half, THICKNESS / 2),
        pos=(0, 0, -THICKNESS / 2),
        material="top",
        group=ROOM,
        friction=(0.7, 0.01, 0.002),
    )
    edge = image.reshape(-1, 3).mean(0) / 255 * 0.7
    leg = 0.025
    for x in (-1, 1):
        for y in (-1, 1):
            root.add_geom(
                type=mujoco.mjtGeom.mjGEOM_BOX,
                size=(leg, leg, (-FLOOR - THICKNESS) / 2),
                pos=(x * (half[0] - leg - 0.01), y * (half[1] - leg - 0.01), (FLOOR - THICKNESS) / 2),
                rgba=(*edge, 1),
                group=ROOM,
                contype=0,
                conaffinity=0,
            )


def _add_room(mujoco, draft, spec: SceneSpec) -> None:
    room, rng = spec.room, np.random.default_rng(spec.room.texture_seed)
    zenith, horizon = room.sky
    draft.add_texture(
        name="sky",
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=zenith,
        rgb2=horizon,
        width=32,
        height=192,
    )
    floor = _add_material(mujoco, draft, "floor", backgrounds.floor(rng))
    floor.texrepeat, floor.texuniform = (1.0, 1.0), True
    floor.rgba, floor.emission = AFAR
    nothing = {"group": ROOM, "contype": 0, "conaffinity": 0}
    root = draft.worldbody
    # Boxes, not planes: a plane casts specks of shadow on itself
    box, thin = mujoco.mjtGeom.mjGEOM_BOX, 0.1
    root.add_geom(type=box, size=(4, 4, thin), pos=(0, 0, FLOOR - thin), material="floor", **nothing)
    if room.wall is not None:
        wall = _add_material(mujoco, draft, "wall", backgrounds.wall(rng))
        wall.texrepeat, wall.texuniform = (1.0, 1.0), True
        wall.rgba, wall.emission = AFAR
        root.add_geom(
            type=box,
            size=(4, thin, 3),
            pos=(0, spec.table.depth / 2 + room.wall + thin, FLOOR + 3),
            material="wall",
            **nothing,
        )


def _add_lights(mujoco, draft, spec: SceneSpec) -> None:
    # The light from everywhere: in MuJoCo, only the headlight's ambient light reaches shadows
    draft.visual.headlight.ambient = spec.ambient
    draft.visual.headlight.diffuse = draft.visual.headlight.specular = (0, 0, 0)
    for light in spec.lights:
        draft.worldbody.add_light(
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
            pos=tuple(-2 * np.array(light.direction)),
            dir=light.direction,
            diffuse=light.diffuse,
            ambient=(0, 0, 0),
            specular=(light.specular,) * 3,
            castshadow=light.shadow,
        )


def _add_object(mujoco, draft, thing: ObjectSpec) -> None:
    shape = thing.shape
    body = draft.worldbody.add_body(name=f"object {thing.id}", pos=thing.position, quat=thing.quaternion)
    body.add_freejoint()
    rng, paints = np.random.default_rng([thing.shape_seed, 1]), {}
    for index, part in enumerate(shape.parts):
        name = f"{thing.id} {index}"
        mesh = draft.add_mesh(
            name=name,
            uservert=part.vertices.reshape(-1),
            usernormal=part.normals.reshape(-1),
            usertexcoord=part.texcoords.reshape(-1),
            userface=part.faces.reshape(-1),
        )
        mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL
        if part.role not in paints:
            paints[part.role] = paint(thing.kind, part.role, thing.rgb, thing.pattern, thing.material, rng)
        look = paints[part.role]
        _add_material(mujoco, draft, name, look.image, look.rgb, look.specular, look.shininess)
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_MESH,
            meshname=name,
            material=name,
            group=SEEN,
            contype=0,
            conaffinity=0,
            mass=0,
        )
    for index, points in enumerate(shape.collision):
        name = f"{thing.id} touched {index}"
        draft.add_mesh(name=name, uservert=points.reshape(-1))
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_MESH,
            meshname=name,
            group=TOUCHED,
            mass=shape.mass / len(shape.collision),
            condim=6,
            friction=(0.6, 0.01, 0.002),
        )


def _add_gripper(mujoco, draft) -> None:
    hand = draft.worldbody.add_body(name="gripper", mocap=True, pos=PARKED)
    nothing = {"group": GRIPPER, "contype": 0, "conaffinity": 0}
    _add_material(mujoco, draft, "shell", None, (0.86, 0.87, 0.88), 0.4, 0.6)
    _add_material(mujoco, draft, "joint", None, (0.16, 0.17, 0.19), 0.3, 0.5)
    box, capsule, cylinder = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CAPSULE, mujoco.mjtGeom.mjGEOM_CYLINDER
    for side in (-1, 1):
        hand.add_geom(type=box, size=(0.006, 0.010, 0.035), pos=(side * 0.035, 0, -0.035), material="joint", **nothing)
    hand.add_geom(type=box, size=(0.055, 0.030, 0.025), pos=(0, 0, -0.095), material="shell", **nothing)
    hand.add_geom(type=cylinder, size=(0.036, 0.020, 0), pos=(0, 0, -0.138), material="joint", **nothing)
    hand.add_geom(type=capsule, size=(0.045, 0.22, 0), pos=(0, 0, -0.40), material="shell", **nothing)
