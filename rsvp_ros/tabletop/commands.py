"""`rsvp tabletop`: scenes, data sets, contact sheets and bags from the tabletop world.

The rendering code is imported when a command runs, so that the other commands need no MuJoCo.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rsvp_ros.arguments import not_negative, positive
from rsvp_ros.errors import ConfigurationError
from rsvp_ros.files import disk_errors, write_whole
from rsvp_ros.progress import Progress
from rsvp_ros.tabletop.export import FORMATS, SceneOptions, export, instructions_about, render_views
from rsvp_ros.tabletop.instruction import LANGUAGES, Instruction
from rsvp_ros.tabletop.splits import Split
from rsvp_ros.tabletop.view import View
from rsvp_ros.tabletop.view_files import ViewFiles, encoded, write_view

MIXED = (Split.TRAIN, Split.NOVEL, Split.TEST)
"""Splits that a contact sheet shows in turn if none is asked for."""
MAX_SIDE = 4096
"""Longest side of an image, pixels: as large as every OpenGL can draw."""
LETTERS = {"en": "a", "es": "ñ¿", "de": "ß", "zh": "红色的"}
"""Characters that a font must have for a language to be drawn."""


def add_tabletop(commands: argparse._SubParsersAction) -> None:
    """Add `tabletop` and its sub-commands to `rsvp`."""
    parser = commands.add_parser(
        "tabletop",
        help="simulated scenes of household things with exact answers: pictures, data sets, bags",
        description="The tabletop world: MuJoCo scenes of household things on a table, instructions about them in "
        "English, Spanish, German and Chinese, and the exact answers. Needs the extra 'sim' and OpenGL through "
        "EGL or OSMesa, but no display and no GPU. A scene is determined by its split and seed alone.",
    )
    subcommands = parser.add_subparsers(dest="tabletop_command", required=True, metavar="{render,export,browse,bag}")
    _add_render(subcommands)
    _add_export(subcommands)
    _add_browse(subcommands)
    _add_bag(subcommands)


# Options --------------------------------------------------------------------------------------------------------------


def _add_render(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "render",
        help="one scene: colour, depth, the object in each pixel, and everything else as JSON",
        description="Write one scene: rgb.png, depth.png (16 bits, millimetres, 0 unknown), ids.png (the object in "
        "each pixel, 0 none) and scene.json (camera, objects with poses and visibility, instructions with answers and "
        "reasoning).",
    )
    _add_scene(parser)
    _add_views(parser)
    _add_out(parser, "tabletop_scene", "output folder; with several --views, it holds a folder for each")
    parser.set_defaults(run=_render)


def _add_export(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "export",
        help="many scenes, in the format of ReasonSeg or of COCO",
        description="Write many scenes with their ground truth: images/ (JPEG), depth/, ids/ and scenes/, and beside "
        "them the files of the chosen format: for reasonseg, <split>/NAME.jpg and NAME.json, one pair per instruction, "
        "as LISA reads them; for coco, annotations/instances_<split>.json. Scenes that are already in the folder are "
        "not rendered again: after an interruption, the same command resumes, and a larger --count adds scenes.",
    )
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="reasonseg",
        help="format of the files beside the images (default: %(default)s)",
    )
    parser.add_argument(
        "--count",
        type=positive,
        default=100,
        help="number of scenes, with consecutive seeds from --seed on (default: %(default)s)",
    )
    _add_scene(parser)
    _add_views(parser)
    parser.add_argument(
        "--workers",
        type=positive,
        default=os.cpu_count() or 1,
        metavar="COUNT",
        help="number of rendering processes (default: %(default)s, one per core)",
    )
    _add_out(parser, "tabletop_data", "folder for all output")
    parser.set_defaults(run=_export)


def _add_browse(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "browse",
        help="a contact sheet: scenes, instructions, answers, reasoning",
        description="Draw scenes and the instructions about them as one picture: each instruction in a colour, what it "
        "refers to highlighted in that colour, and some of the reasoning in full. What training never shows is marked.",
    )
    parser.add_argument("--split", choices=_SPLITS, help="show only this split (default: several in turn)")
    parser.add_argument("--seed", type=not_negative, default=0, help="seed of the first scene (default: %(default)s)")
    parser.add_argument("--count", type=positive, default=7, help="number of scenes (default: %(default)s)")
    _add_languages(parser)
    _add_out(parser, "tabletop_browse.png", "picture file, .png or .jpg")
    parser.set_defaults(run=_browse)


def _add_bag(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "bag",
        help="a clip with a moving camera and moving things, as a rosbag2 bag (MCAP)",
        description="Film a scene in which things slide, are carried off and come back, or are hidden by an arm, and "
        "write it as a bag: images, depth in millimetres, camera_info, tf, instructions, and the truth (label images, "
        "and the objects as JSON). `ros2 bag play` and the node tabletop_camera play it.",
    )
    _add_scene(parser, split="test", instructions=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the clip [s] (default: %(default)g)")
    parser.add_argument("--rate", type=float, default=10.0, help="images per second (default: %(default)g)")
    parser.add_argument("--raw", action="store_true", help="write the images as lossless rgb8, not as JPEG")
    _add_out(parser, "tabletop_bag", "folder for the bag")
    parser.set_defaults(run=_bag)


_SPLITS = [split.value for split in Split]


def _add_scene(parser: argparse.ArgumentParser, split: str = "train", instructions: int = 6) -> None:
    parser.add_argument(
        "--split",
        choices=_SPLITS,
        default=split,
        help="what may occur in the scene, see docs/tabletop.md (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=not_negative, default=0, help="seed of the scene, or of the first one (default: %(default)s)"
    )
    parser.add_argument(
        "--size",
        type=image_size,
        default="320x240",
        metavar="WIDTHxHEIGHT",
        help="image size [px] (default: %(default)s)",
    )
    parser.add_argument(
        "--instructions",
        type=not_negative,
        default=instructions,
        metavar="COUNT",
        help="number of instructions; fewer if less can be said with certainty (default: %(default)s)",
    )
    _add_languages(parser)


def _add_views(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--views",
        type=int,
        choices=(1, 2, 3),
        default=1,
        help="number of cameras per scene, or of moments (default: %(default)s)",
    )
    parser.add_argument(
        "--moments",
        action="store_true",
        help="not things that lie still: random moments at which a robot's hand carries one, or its arm hides one",
    )


def _add_languages(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--languages",
        nargs="+",
        choices=LANGUAGES,
        default=LANGUAGES,
        metavar="LANGUAGE",
        help=f"languages of the instructions, any of {', '.join(LANGUAGES)} (default: all)",
    )


def _add_out(parser: argparse.ArgumentParser, default: str, what: str) -> None:
    parser.add_argument("--out", type=Path, default=Path(default), metavar="PATH", help=f"{what} (default: {default})")


def image_size(text: str) -> tuple[int, int]:
    """Width and height from "640x480"; for argparse."""
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdecimal() and 32 <= int(side) <= MAX_SIDE for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size from 32x32 to {MAX_SIDE}x{MAX_SIDE}, such as 640x480")
    return int(sides[0]), int(sides[1])


# What they do ---------------------------------------------------------------------------------------------------------


def _render(options: argparse.Namespace) -> int:
    scene = _scene_options(options)
    for number, view in enumerate(render_views(scene, options.seed)):
        folder = options.out / f"view_{number}" if scene.views > 1 else options.out
        instructions = instructions_about(view, scene, options.seed, number)
        with disk_errors(folder):
            write_view(ViewFiles.alone(folder), view, instructions, scene.made_with(options.seed, number))
        print(f"{folder}/: " + ", ".join(f"{thing.color} {thing.kind}" for thing in view.things))
        for instruction in instructions:
            print("  " + _told(instruction, view))
    return 0


def _export(options: argparse.Namespace) -> int:
    scene = _scene_options(options)
    seeds = range(options.seed, options.seed + options.count)
    with Progress("scene") as progress:
        views, written = export(options.out, options.format, scene, seeds, options.workers, progress.update)
    print(f"{views} views of the split {scene.split.value}, as {options.format}: {written}")
    return 0


def _browse(options: argparse.Namespace) -> int:
    from rsvp_ros.tabletop.browse import contact_sheet, drawable, pick_scenes
    from rsvp_ros.tabletop.world import render_scene

    if options.out.suffix not in (".png", ".jpg"):
        raise ConfigurationError(f"a picture is written as .png or .jpg: give --out such a name, not {options.out}")
    languages = tuple(language for language in options.languages if drawable(LETTERS[language]))
    if missing := ", ".join(language for language in options.languages if language not in languages):
        remedy = f"no font for {missing}: install one, e.g. Debian's fonts-noto-cjk"
        if not languages:
            raise ConfigurationError(remedy)
        print(f"{remedy}; these instructions are left out", file=sys.stderr)

    def views() -> Iterator:
        for number in range(20 * options.count):  # there are views about which nothing can be said
            split = Split(options.split) if options.split else MIXED[number % len(MIXED)]
            seed = options.seed + number
            scene = SceneOptions(split, size=(640, 480), instructions=16, languages=languages)
            view = render_scene(split, seed, size=scene.size)[0]
            yield split, seed, view, instructions_about(view, scene, seed)

    sheet = contact_sheet(pick_scenes(views(), options.count))
    with disk_errors(options.out):
        write_whole(options.out, encoded(options.out.suffix, sheet[..., ::-1]))
    print(f"written to {options.out}")
    return 0


def _bag(options: argparse.Namespace) -> int:
    from rsvp_ros.tabletop.bag import START_NS, TimedInstruction, write_bag
    from rsvp_ros.tabletop.clips import render_clip, sample_clip
    from rsvp_ros.tabletop.instructions import sample_instructions

    if options.out.exists():
        raise ConfigurationError(f"{options.out} exists already: remove it, or choose another folder with --out")
    split = Split(options.split)
    clip = sample_clip(split, options.seed, options.seconds, options.rate, options.size)
    said: list[TimedInstruction] = []
    meant: set[int] = set()
    if options.instructions:
        rng = split.generator(options.seed, "instructions about the clip")
        # Only the views at the moments when something is said.
        # These are the middles of equal intervals: at the very start nobody listens yet.
        moments = render_clip(replace(clip, rate=2 * options.instructions / clip.seconds), start_ns=START_NS)
        for view in itertools.islice(moments, 1, None, 2):
            candidates = sample_instructions(view, rng, 8, options.languages, is_training=split.known)
            candidates = [instruction for instruction in candidates if instruction.targets]
            if candidates:
                instruction = min(candidates, key=lambda one: len(meant.intersection(one.targets)))
                meant.update(instruction.targets)
                said.append(TimedInstruction(view.stamp_ns, instruction.text))
                print(f"{(view.stamp_ns - START_NS) / 1e9:6.1f} s {_told(instruction, view)}")

    with Progress("image") as progress:

        def views() -> Iterator:
            for number, view in enumerate(render_clip(clip, start_ns=START_NS), start=1):
                yield view
                progress.update(number, clip.count)

        write_bag(options.out, views(), said, jpeg_quality=None if options.raw else 90)
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{clip.count} images, {size / 1e6:.1f} MB: {options.out}")
    return 0


def _scene_options(options: argparse.Namespace) -> SceneOptions:
    return SceneOptions(
        Split(options.split),
        options.size,
        options.views,
        options.instructions,
        tuple(options.languages),
        options.moments,
    )


def _told(instruction: Instruction, view: View) -> str:
    things = [view.object(target) for target in instruction.targets]
    meant = ", ".join(f"{thing.color} {thing.kind}" for thing in things) or "nothing that is there"
    return f"[{instruction.language}] {instruction.text} -> {meant}"
