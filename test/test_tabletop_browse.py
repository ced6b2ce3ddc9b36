"""The contact sheet of the tabletop world, and the commands `rsvp tabletop render`, `browse` and `bag`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hand_made_view import INSTRUCTIONS, make_view

from rsvp_ros.cli import main
from rsvp_ros.tabletop import commands
from rsvp_ros.tabletop.browse import HELD_OUT, Scene, choose, contact_sheet, draw_answers, drawable, pick_scenes
from rsvp_ros.tabletop.instruction import InstructionKind
from rsvp_ros.tabletop.splits import Split
from rsvp_ros.tabletop.view_files import read_view
from rsvp_ros.visualization import PALETTE

USE, RELATION, NEGATION, ABSENT = INSTRUCTIONS
VIEW = make_view()
PRIVATE = "\U0010fffd"  # no font has it


def tabletop(*arguments) -> int:
    return main(["tabletop", *map(str, arguments)])


def near(picture: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Which pixels have a colour, but for what JPEG and smoothing do."""
    return np.abs(picture.astype(int) - color).max(-1) < 12


# What is shown --------------------------------------------------------------------------------------------------------


def test_instructions_are_chosen_to_differ():
    second = replace(USE, text="the blue mug", kind=InstructionKind.ATTRIBUTE)  # the same thing in the same language
    chosen = choose(VIEW, [USE, second, RELATION], 2, Counter())
    assert set(chosen) in ({USE, RELATION}, {second, RELATION})
    assert len(choose(VIEW, [USE, RELATION], 5, Counter())) == 2
    # A thing is not meant twice.
    assert choose(VIEW, [USE, replace(NEGATION, targets=(1,))], 2, Counter()) == (USE,)


def test_what_was_shown_before_is_shown_last():
    other = replace(USE, text="what is blue?", kind=InstructionKind.ATTRIBUTE)
    assert choose(VIEW, [USE, other], 1, Counter({InstructionKind.USE: 2})) == (other,)
    assert choose(VIEW, [USE, other], 1, Counter({InstructionKind.ATTRIBUTE: 2})) == (USE,)


def test_what_is_half_hidden_is_shown_last():
    hidden = replace(USE, text="the banana", targets=(2,))  # the can is in front of it
    assert VIEW.object(2).visible < 0.8
    assert choose(VIEW, [hidden, USE], 1, Counter()) == (USE,)


def test_absent_ones_come_last_and_seldom():
    absent = replace(ABSENT, text="the scissors", language="en")
    shown: Counter = Counter()
    assert choose(VIEW, [absent, RELATION], 2, shown) == (RELATION, absent)
    assert shown["absent"] == 1
    candidates = [replace(absent, language="de"), USE, replace(RELATION, language="en", targets=(3,))]
    assert choose(VIEW, candidates, 2, Counter()) == (USE, candidates[0])
    assert choose(VIEW, candidates, 2, Counter(absent=2)) == (USE, candidates[2])


def test_what_no_font_can_write_is_not_chosen():
    assert drawable("¿Qué?")
    assert not drawable(f"the {PRIVATE}")
    secret = replace(USE, text=PRIVATE)
    assert choose(VIEW, [secret, RELATION], 2, Counter()) == (RELATION,)
    views = [(Split.TEST, 0, make_view(), [secret]), (Split.TEST, 1, make_view(), [RELATION])]
    assert [scene.seed for scene in pick_scenes(views, 2)] == [1]


def test_reasoning_is_in_english_first_and_then_in_another_language():
    views = [(Split.TEST, seed, make_view(), [RELATION, USE]) for seed in range(3)]
    scenes = pick_scenes(views, 3)
    assert scenes[0].instructions[0] == USE
    assert scenes[-1].instructions[0] == RELATION


# The picture ----------------------------------------------------------------------------------------------------------


def test_answers_are_lit_and_nothing_else_is_touched():
    view = make_view(320, 240)
    picture = draw_answers(view, [USE, RELATION], 320)
    assert picture.shape == (240, 320, 3)
    plain = draw_answers(replace(view, ids=np.zeros_like(view.ids), objects=()), [], 320)
    changed = np.abs(picture.astype(int) - plain).max(-1) > 8

    def within(mask: np.ndarray, pixels: int) -> np.ndarray:
        return cv2.dilate(mask.astype(np.uint8), np.ones((2 * pixels + 1, 2 * pixels + 1))).astype(bool)

    things = view.ids > 0
    assert not (changed & ~within(things, 4)).any()
    for target, color in ((1, PALETTE[0]), (2, PALETTE[1])):
        mask = view.mask(target)
        inside = ~within(~mask, 2)
        assert changed[inside].all()
        distance = np.linalg.norm(picture[inside] - np.array(color, float), axis=1)
        assert (distance < np.linalg.norm(plain[inside] - np.array(color, float), axis=1)).all()
        rim = within(mask, 2) & ~within(mask, 0) & ~within(things & ~mask, 3)
        assert near(picture, color)[rim].mean() > 0.6
    can = ~within(~view.mask(3), 2)
    assert not changed[can & ~within(view.mask(2), 4)].any()  # not meant: only outlined
    outline = within(view.mask(3), 1) & ~view.mask(3) & ~within(view.mask(2), 5)
    assert changed[outline].mean() > 0.5


def test_the_narrower_answer_is_seen_where_two_overlap():
    view = make_view(320, 240)
    picture = draw_answers(view, [USE, NEGATION], 320)  # the mug; the mug and the banana
    mug, banana = (cv2.dilate(view.mask(i).astype(np.uint8), np.ones((7, 7))).astype(bool) for i in (1, 2))
    assert near(picture, PALETTE[0])[mug].any()
    assert not near(picture, PALETTE[1])[mug].any()
    assert near(picture, PALETTE[1])[banana].any()


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (3, 2), (7, 3)])
def test_sheet(count, rows):
    views = [(Split.TEST, seed, make_view(), INSTRUCTIONS) for seed in range(count)]
    sheet = contact_sheet(pick_scenes(views, count), columns=3, cell_width=240)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] == 3 * (240 + 12) + 12
    assert rows * 180 < sheet.shape[0] < rows * 420
    again = contact_sheet(pick_scenes(views, count), columns=3, cell_width=240)
    assert np.array_equal(sheet, again)
    assert near(sheet, PALETTE[0]).sum() > 50 * count


def test_what_training_never_shows_is_marked():
    view = make_view()
    spanner = replace(view, objects=(replace(view.objects[0], kind="spanner"), *view.objects[1:]))
    plain = replace(USE, novel=())

    def marks(*scene) -> int:
        return near(contact_sheet([Scene(*scene)])[360:], HELD_OUT).sum()  # below the picture

    assert marks(Split.TRAIN, 0, view, (plain,)) == 0
    assert marks(Split.NOVEL, 0, spanner, (plain,)) > 50
    assert marks(Split.TEST, 0, view, (replace(plain, novel=("words",)),)) > 50


# The commands ---------------------------------------------------------------------------------------------------------


def test_the_commands_load_no_renderer_until_they_need_it():
    script = (
        "import sys\nfrom rsvp_ros.cli import main\n"
        "try:\n    main(['tabletop', 'export', '--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "assert not {'mujoco', 'torch', 'rosbags'} & set(sys.modules), 'loaded'"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--workers" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["render", "--size", "640"], "'640' is not a size"),
        (["render", "--size", "100000x100000"], "from 32x32 to 4096x4096"),
        (["render", "--seed", "-1"], "'-1' is not a whole number from 0 on"),
        (["export", "--workers", "0"], "'0' is not a whole number from 1 on"),
        (["export", "--format", "voc"], "invalid choice: 'voc'"),
        (["browse", "--languages", "en", "fr"], "invalid choice: 'fr'"),
    ],
)
def test_wrong_options_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        tabletop(*arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_render(headless_gl, tmp_path, capsys):
    folder = tmp_path / "scene"
    assert tabletop("render", "--split", "test", "--seed", 5, "--size", "160x120", "--out", folder) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["depth.png", "ids.png", "rgb.png", "scene.json"]
    view, instructions = read_view(folder / "scene.json")
    assert view.image.shape == (120, 160, 3)
    made_with = json.loads((folder / "scene.json").read_text())["made_with"]
    assert (made_with["split"], made_with["seed"], made_with["size"]) == ("test", 5, [160, 120])
    printed = capsys.readouterr().out
    assert instructions
    for instruction in instructions:
        assert instruction.text in printed
    for thing in view.things:
        assert f"{thing.color} {thing.kind}" in printed

    assert tabletop("render", "--seed", 5, "--size", "160x120", "--views", 2, "--out", tmp_path / "two") == 0
    first, second = (read_view(tmp_path / "two" / f"view_{number}" / "scene.json")[0] for number in range(2))
    assert not np.array_equal(first.image, second.image)
    for one, other in zip(first.objects, second.objects, strict=True):
        assert np.array_equal(one.world_from_object, other.world_from_object)


def test_browse(headless_gl, tmp_path, capsys):
    path = tmp_path / "sheet.png"
    assert tabletop("browse", "--count", 2, "--languages", "en", "--out", path) == 0
    assert str(path) in capsys.readouterr().out
    sheet = cv2.imread(str(path))[..., ::-1]
    assert sheet.shape[1] == 1280
    assert near(sheet, PALETTE[0]).sum() > 500
    first = path.read_bytes()
    assert tabletop("browse", "--count", 2, "--languages", "en", "--out", path) == 0
    assert path.read_bytes() == first


def test_browse_says_what_is_wrong_with_its_file(headless_gl, tmp_path, capsys):
    assert tabletop("browse", "--out", tmp_path / "sheet.gif") == 2
    assert ".png or .jpg" in capsys.readouterr().err
    (tmp_path / "file").write_text("in the way")
    assert tabletop("browse", "--count", 1, "--languages", "en", "--out", tmp_path / "file" / "sheet.png") == 2
    assert "cannot be written to" in capsys.readouterr().err


def test_languages_without_a_font_are_named(monkeypatch, headless_gl, tmp_path, capsys):
    monkeypatch.setitem(commands.LETTERS, "zh", PRIVATE)
    path = tmp_path / "sheet.png"
    assert tabletop("browse", "--languages", "zh", "--out", path) == 2
    assert "no font for zh" in capsys.readouterr().err
    assert not path.exists()
    assert tabletop("browse", "--count", 1, "--languages", "zh", "en", "--out", path) == 0
    assert "no font for zh" in capsys.readouterr().err
    assert path.exists()


def test_bag(headless_gl, tmp_path, capsys):
    pytest.importorskip("rosbags")
    from rsvp_ros.tabletop.bag import read_bag, read_instructions

    bag = tmp_path / "bag"
    options = ["--size", "160x120", "--seconds", 2, "--rate", 5, "--instructions", 2, "--languages", "en", "--out", bag]
    assert tabletop("bag", *options) == 0
    printed = capsys.readouterr().out
    views = list(read_bag(bag))
    assert [view.stamp_ns for view in views] == [10**9 + round(number * 1e9 / 5) for number in range(10)]
    assert views[0].image.shape == (120, 160, 3)
    said = read_instructions(bag)
    assert 1 <= len(said) <= 2
    assert all(one.stamp_ns in (1_500_000_000, 2_500_000_000) and one.text in printed for one in said)
    assert "10 images" in printed
    assert tabletop("bag", *options) == 2
    assert "exists already" in capsys.readouterr().err
