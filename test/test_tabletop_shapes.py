"""Every kind's geometry: sound meshes, true dimensions, rests that physics keeps, colours that can be named."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.tabletop.kinds import COLORS, KINDS, ROLLS_LYING, ROUND
from rsvp_ros.tabletop.shapes import SHAPES, build_shape
from rsvp_ros.tabletop.shapes.mesh import box, lathe, ribbon, ring, shaded, tube
from rsvp_ros.tabletop.surfaces import paint

SEEDS = st.integers(0, 2**32 - 1)


def shape_of(kind, seed):
    return build_shape(kind, np.random.default_rng(seed))


def matrix(quaternion):
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def welded(meshes):
    """Vertices and faces of all of it, vertices at one place made one."""
    vertices = np.concatenate([v for v, _ in meshes]).astype(np.float64)
    starts = np.cumsum([0] + [len(v) for v, _ in meshes[:-1]])
    faces = np.concatenate([f + start for (_, f), start in zip(meshes, starts, strict=True)])
    cells = np.round(vertices / 4e-6).astype(np.int64)
    _, first, place = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    return vertices[first], place.ravel()[faces]


def volumes(vertices, faces):
    """Of each connected piece, cubic metres: positive where its faces look outwards."""
    label = np.arange(len(vertices))
    while True:
        lowest = label[faces].min(1)
        new = label.copy()
        np.minimum.at(new, faces.ravel(), np.repeat(lowest, 3))
        if (new == label).all():
            break
        label = new
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    parts = (a * np.cross(b, c)).sum(1) / 6
    return np.bincount(label[faces[:, 0]], parts)[np.unique(label[faces[:, 0]])]


def test_every_kind_has_a_shape():
    assert set(SHAPES) == set(KINDS)


def test_an_unknown_kind_is_named():
    with pytest.raises(ConfigurationError, match=r"'unicorn'.*mug"):
        build_shape("unicorn", np.random.default_rng(0))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=4, deadline=None)
@given(seed=SEEDS)
def test_the_meshes_are_sound(kind, seed):
    shape = shape_of(kind, seed)
    half = np.array(shape.dimensions) / 2
    assert shape.kind == kind and "main" in {part.role for part in shape.parts}
    assert sum(len(part.faces) for part in shape.parts) <= 2600
    for part in shape.parts:
        count = len(part.vertices)
        assert part.vertices.shape == part.normals.shape == (count, 3) and part.texcoords.shape == (count, 2)
        assert part.vertices.dtype == part.normals.dtype == part.texcoords.dtype == np.float32
        assert part.faces.dtype == np.int32 and part.faces.shape[1] == 3
        assert part.faces.min() == 0 and part.faces.max() == count - 1
        for values in (part.vertices, part.normals, part.texcoords):
            assert np.isfinite(values).all()
        np.testing.assert_allclose(np.linalg.norm(part.normals, axis=1), 1, atol=1e-4)
        assert (np.abs(part.vertices) <= half + 1e-6).all()
        # Light falls on the side that the faces turn outwards
        a, b, c = (part.vertices[part.faces[:, i]] for i in range(3))
        across = np.cross(b - a, c - a)
        assert ((across[:, None] * part.normals[part.faces]).sum(2) > 0).mean() > 0.995


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=3, deadline=None)
@given(seed=SEEDS)
def test_it_is_closed_and_the_right_way_out(kind, seed):
    vertices, faces = welded([(part.vertices, part.faces) for part in shape_of(kind, seed).parts])
    edges = np.concatenate((faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]))
    edges = edges[edges[:, 0] != edges[:, 1]]
    there, back = edges @ [1, len(vertices)], edges @ [len(vertices), 1]
    assert np.array_equal(np.sort(there), np.sort(back)), "an edge with a face on one side only"
    assert (volumes(vertices, faces) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=4, deadline=None)
@given(seed=SEEDS)
def test_dimensions_are_those_of_the_box_around_it(kind, seed):
    shape = shape_of(kind, seed)
    points = np.concatenate([part.vertices for part in shape.parts])
    np.testing.assert_allclose(np.ptp(points, 0), shape.dimensions, atol=2e-6)
    np.testing.assert_allclose(points.max(0), -points.min(0), atol=2e-6)
    assert 0.03 < max(shape.dimensions) < 0.40 and min(shape.dimensions) > 0.002
    assert 0.01 < shape.mass < 1.5
    # What is touched is about what is seen
    assert 1 <= len(shape.collision) <= 7
    touched = np.concatenate(shape.collision)
    assert (np.abs(touched) <= np.array(shape.dimensions) / 2 + 0.0025).all()
    longest = int(np.argmax(shape.dimensions))
    assert np.ptp(touched, 0)[longest] > 0.6 * shape.dimensions[longest]  # a carrot's green is not
    assert all(len(piece) >= 4 and np.linalg.matrix_rank(piece - piece[0], tol=1e-5) == 3 for piece in shape.collision)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_the_same_thing_and_another_one_another(kind):
    one, again, other = shape_of(kind, 7), shape_of(kind, 7), shape_of(kind, 8)
    for a, b in zip(one.parts, again.parts, strict=True):
        assert a.role == b.role
        for field in ("vertices", "faces", "normals", "texcoords"):
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
    assert one.rests == again.rests and one.dimensions == again.dimensions
    assert one.dimensions != other.dimensions


def test_sizes_vary_within_what_one_finds_in_a_house():
    lengths = {
        kind: [max(shape_of(kind, seed).dimensions) for seed in range(8)] for kind in ("mug", "knife", "key", "book")
    }
    for kind, (low, high) in {
        "mug": (0.08, 0.15),
        "knife": (0.17, 0.31),
        "key": (0.06, 0.09),
        "book": (0.14, 0.24),
    }.items():
        assert low < min(lengths[kind]) and max(lengths[kind]) < high
        assert max(lengths[kind]) > 1.08 * min(lengths[kind])


@pytest.mark.parametrize("kind", ["mug", "bowl", "pan"])
def test_vessels_are_hollow(kind):
    """A ray down onto the middle of the vessel's opening meets its floor, not a lid."""
    for seed in range(4):
        shape = shape_of(kind, seed)
        body = [p for p in shape.parts if p.role in ("main", "inside")]
        corners = np.concatenate([p.vertices[p.faces] for p in body])
        rim = np.concatenate([p.vertices for p in body])
        rim = rim[rim[:, 2] > rim[:, 2].max() - 0.004]
        spot = (rim[:, :2].max(0) + rim[:, :2].min(0)) / 2 + (0.0011, 0.0007)
        a, b, c = (corners[:, i, :2] - spot for i in range(3))
        signs = np.stack([x[:, 0] * y[:, 1] - x[:, 1] * y[:, 0] for x, y in ((a, b), (b, c), (c, a))])
        hit = (signs > 0).all(0)
        assert hit.any()
        assert corners[hit][..., 2].max() < rim[:, 2].min() - 0.55 * np.ptp(
            np.concatenate([p.vertices for p in body])[:, 2]
        )


@pytest.mark.parametrize("kind", KINDS)
def test_rests_stand_on_the_table(kind):
    names = set()
    for seed in range(4):
        shape = shape_of(kind, seed)
        assert abs(sum(rest.probability for rest in shape.rests) - 1) < 1e-9
        for rest in shape.rests:
            names.add(rest.name)
            assert abs(np.linalg.norm(rest.quaternion) - 1) < 1e-9
            lowest = min((piece @ matrix(rest.quaternion).T)[:, 2].min() for piece in shape.collision)
            assert abs(lowest + rest.height) < 1e-5
    if kind in ROLLS_LYING.members:
        assert names == {"upright", "lying"}


@pytest.mark.parametrize("kind", KINDS)
def test_physics_keeps_the_rests(kind):
    mujoco = pytest.importorskip("mujoco", reason="needs the extra sim")
    for seed in (0, 1):
        shape = shape_of(kind, seed)
        for rest in shape.rests:
            spec = mujoco.MjSpec()
            spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=(1, 1, 0.1), friction=(0.7, 0.005, 0.0005))
            body = spec.worldbody.add_body(name="thing", pos=(0, 0, rest.height + 0.0005), quat=rest.quaternion)
            body.add_freejoint()
            for index, points in enumerate(shape.collision):
                spec.add_mesh(name=f"{index}", uservert=points.ravel())
                body.add_geom(
                    type=mujoco.mjtGeom.mjGEOM_MESH,
                    meshname=f"{index}",
                    mass=shape.mass / len(shape.collision),
                    friction=(0.7, 0.005, 0.0005),
                    condim=6,
                )
            model = spec.compile()
            data = mujoco.MjData(model)
            mujoco.mj_forward(model, data)
            before = data.body("thing").xmat.reshape(3, 3)[2].copy()
            for _ in range(250):
                mujoco.mj_step(model, data)
            after = data.body("thing").xmat.reshape(3, 3)[2]
            tipped = np.degrees(np.arccos(np.clip(before @ after, -1, 1)))
            assert tipped < (20 if kind in ROUND.members else 10), (rest.name, seed)
            assert abs(data.body("thing").xpos[2] - rest.height) < 0.003, (rest.name, seed)


@pytest.mark.parametrize("kind", KINDS)
def test_paint_shows_the_colour_that_names_the_thing(kind):
    of = KINDS[kind]
    roles = {part.role for seed in range(6) for part in shape_of(kind, seed).parts}
    for number, color in enumerate(of.colors):
        for pattern in set(of.patterns):
            for material in of.materials:
                rng = np.random.default_rng(number)
                rgb = tuple(np.mean(COLORS[color], 0))
                for role in sorted(roles):
                    look = paint(kind, role, rgb, pattern, material, rng)
                    assert len(look.rgb) == 3 and min(look.rgb) >= 0 and max(look.rgb) <= 1
                    assert 0 <= look.specular <= 1 and 0 <= look.shininess <= 1
                    if look.image is not None:
                        assert look.image.dtype == np.uint8 and look.image.shape[2] == 3 and look.rgb == (1, 1, 1)
                    if role == "main":
                        seen = np.asarray(look.rgb)[None] if look.image is None else look.image.reshape(-1, 3) / 255
                        assert np.abs(np.median(seen, 0) - rgb).max() < 0.13, (color, pattern, material)


def test_patterns_have_two_colours_and_plain_has_one():
    rgb = COLORS["blue"][0]
    for kind in ("mug", "bowl", "plate", "book", "box", "ball", "can"):
        for pattern in set(KINDS[kind].patterns):
            image = paint(kind, "main", rgb, pattern, KINDS[kind].materials[0], np.random.default_rng(0)).image
            other = 0.0 if image is None else (np.abs(image / 255 - rgb).max(2) > 0.4).mean()
            assert (other == 0) if pattern == "plain" else (0.08 < other < 0.5), (kind, pattern)


def test_paint_is_a_function_of_its_seed():
    def looks(seed):
        return paint("book", "title", (0.8, 0.1, 0.1), "plain", "paper", np.random.default_rng(seed)).image

    np.testing.assert_array_equal(looks(3), looks(3))
    assert not np.array_equal(looks(3), looks(4))


def test_shading_is_smooth_on_a_tube_and_sharp_on_a_box():
    cube, normals = shaded(box((1, 1, 1)), 40)
    assert len(cube.vertices) == 6 * 4 + 2  # top and bottom have a vertex in their middles
    assert (np.sort(np.abs(normals), 1) > [-1, -1, 0.999]).all()
    round_, normals = shaded(lathe([(1, 0), (1, 1)], 24, caps=False), 40)
    np.testing.assert_allclose(normals[:, :2], round_.vertices[:, :2], atol=0.01)


def test_solids_have_the_volume_that_they_should():
    def volume(mesh):
        return volumes(*welded([(mesh.vertices, mesh.faces)])).sum()

    assert volume(box((0.1, 0.2, 0.3))) == pytest.approx(0.006)
    assert volume(lathe([(0, 0), (0.1, 0), (0.1, 0.2), (0, 0.2)], 200)) == pytest.approx(np.pi * 0.002, rel=1e-3)
    assert volume(tube([(0, 0, 0), (0.1, 0, 0), (0.2, 0, 0)], 0.01, 100)) == pytest.approx(np.pi * 2e-5, rel=2e-3)
    line = np.linspace(0, 0.2, 5)
    strip = ribbon(np.column_stack((line, line * 0 + 0.01)), np.column_stack((line, line * 0 - 0.01)), 0, 0.005)
    assert volume(strip) == pytest.approx(0.2 * 0.02 * 0.005)
    angle = np.arange(200) * np.pi / 100
    round_ = np.column_stack((np.cos(angle), np.sin(angle)))
    washer = ring(round_ * 0.1, round_ * 0.05, 0, 0.01)
    assert volume(washer) == pytest.approx(np.pi * (0.01 - 0.0025) * 0.01, rel=1e-3)
