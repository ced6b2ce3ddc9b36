"""`rsvp tabletop`: scenes, data sets, contact sheets and bags from the tabletop world.

What renders is imported when a command runs, so that the other commands need no MuJoCo.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import cv2

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.tabletop.instruction import LANGUAGES
from rsvp_ros.tabletop.splits import Split

FORMATS = ("reasonseg", "coco")


def add_tabletop(commands: argparse._SubParsersAction) -> None:
    """Add `tabletop` and its sub-commands to `rsvp`."""
    parser = commands.add_parser(
        "tabletop",
        help="simulated scenes of household things with exact answers: pictures, data sets, bags",
        description="The tabletop world: MuJoCo scenes of household things on a table, instructions about them in "
        "English, Spanish, German and Chinese, and the exact answers. Needs the extra 'sim' and OpenGL by EGL or "
        "OSMesa; no display and no GPU. A scene follows from its split and seed alone.",
    )
    subcommands = parser.add_subparsers(dest="tabletop_command", required=True)
    _add_render(subcommands)
    _add_export(subcommands)
    _add_browse(subcommands)


def _add_render(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "render",
        help="one scene: colour, depth, which object is where, everything else as JSON",
        description="Write one scene: rgb.png, depth.png (16 bits, millimetres, 0 unknown), ids.png (the object in "
        "each pixel, 0 none) and scene.json (camera, objects with poses and visibility, instructions with answers and "
        "reasoning).",
    )
    _add_scene_options(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("tabletop_scene"),
        help="folder; with several --views, a folder for each in it (default: %(default)s)",
    )
    parser.set_defaults(run=_render)


def _add_export(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "export",
        help="many scenes, in the format of ReasonSeg or of COCO",
        description="Write many scenes with their truth: images/ (JPEG), depth/, ids/ and scenes/, and beside them "
        "what the format wants: for reasonseg <split>/NAME.jpg with NAME.json, one an instruction, as LISA reads "
        "them; for coco annotations/instances_<split>.json. Scenes that the folder holds are not rendered again: "
        "after an interruption the same command goes on, and with a larger --count it adds to them.",
    )
    parser.add_argument(
        "--format", choices=FORMATS, default="reasonseg", help="of the files beside the images (default: %(default)s)"
    )
    parser.add_argument(
        "--count", type=_positive, default=100, help="scenes, with seeds from --seed on (default: %(default)s)"
    )
    _add_scene_options(parser)
    parser.add_argument(
        "--workers",
        type=_positive,
        default=os.cpu_count() or 1,
        help="processes that render (default: %(default)s, one a core)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("tabletop_data"), help="folder for all that is written (default: %(default)s)"
    )
    parser.set_defaults(run=_export)


def _add_browse(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "browse",
        help="a contact sheet: scenes, instructions, answers, reasoning",
        description="Draw scenes with what is said about them as one PNG: each instruction in a colour, what it means "
        "tinted in that colour, and some of the reasoning in full. What training never shows is marked.",
    )
    parser.add_argument("--seed", type=_not_negative, default=0, help="of the first scene (default: %(default)s)")
    parser.add_argument(
        "--split", choices=[split.value for split in Split], help="only this one; if not given, several"
    )
    parser.add_argument("--count", type=_positive, default=7, help="scenes (default: %(default)s)")
    _add_languages(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("tabletop_browse.png"), help="the picture's file (default: %(default)s)"
    )
    parser.set_defaults(run=_browse)


def _add_scene_options(parser: argparse.ArgumentParser) -> None:
    splits = [split.value for split in Split]
    parser.add_argument(
        "--split",
        choices=splits,
        default="train",
        help="what may occur in the scene, see docs/tabletop.md (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=_not_negative, default=0, help="of the scene, or of the first one (default: %(default)s)"
    )
    parser.add_argument(
        "--size", type=_size, default="320x240", metavar="WIDTHxHEIGHT", help="of an image [px] (default: %(default)s)"
    )
    parser.add_argument(
        "--views", type=int, choices=(1, 2, 3), default=1, help="cameras that look at a scene (default: %(default)s)"
    )
    parser.add_argument(
        "--instructions",
        type=_not_negative,
        default=6,
        metavar="COUNT",
        help="about each view, at most (default: %(default)s)",
    )
    _add_languages(parser)


def _add_languages(parser: argparse.ArgumentParser) -> None:
    names = ", ".join(LANGUAGES)
    parser.add_argument(
        "--languages",
        nargs="+",
        choices=LANGUAGES,
        default=LANGUAGES,
        metavar="LANGUAGE",
        help=f"of the instructions, some of {names} (default: all)",
    )


def _render(options: argparse.Namespace) -> int:
    from rsvp_ros.tabletop.export import disk_errors, instructions_about
    from rsvp_ros.tabletop.view_files import ViewFiles, write_view
    from rsvp_ros.tabletop.world import render_scene

    scene = _scene_options(options)
    views = render_scene(scene.split, options.seed, size=scene.size, views=scene.views)
    for number, view in enumerate(views):
        folder = options.out / f"view_{number}" if scene.views > 1 else options.out
        instructions = instructions_about(view, scene, options.seed, number)
        with disk_errors(folder):
            write_view(ViewFiles.alone(folder), view, instructions, scene.made_with(options.seed, number))
        print(f"{folder}/: " + ", ".join(f"{thing.color} {thing.kind}" for thing in view.things))
        for instruction in instructions:
            answer = ", ".join(instruction.names) if instruction.targets else "none"
            print(f"  [{instruction.language}] {instruction.text} -> {answer}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from rsvp_ros.tabletop.export import export

    scene = _scene_options(options)
    seeds = range(options.seed, options.seed + options.count)
    with _Progress() as progress:
        views, written = export(options.out, options.format, scene, seeds, options.workers, progress)
    print(f"{views} views of the split {scene.split.value}, as {options.format}: {written}")
    return 0


def _browse(options: argparse.Namespace) -> int:
    from rsvp_ros.tabletop.browse import contact_sheet, drawable, pick_scenes
    from rsvp_ros.tabletop.export import SceneOptions, disk_errors, instructions_about
    from rsvp_ros.tabletop.view_files import write_whole
    from rsvp_ros.tabletop.world import render_scene

    languages = tuple(language for language in options.languages if drawable(SAMPLES[language]))
    for language in sorted(set(options.languages) - set(languages)):
        print(f"no font for {language}: its instructions are left out ({FONT_HINT})", file=sys.stderr)
    if not languages:
        raise ConfigurationError(f"no font for the language {', '.join(options.languages)}: {FONT_HINT}")

    def views() -> Iterator:
        for seed in count(options.seed):
            split = Split(options.split) if options.split else MIXED[(seed - options.seed) % len(MIXED)]
            scene = SceneOptions(split, size=(640, 480), instructions=16, languages=languages)
            view = render_scene(split, seed, size=scene.size)[0]
            yield split, seed, view, instructions_about(view, scene, seed)

    sheet = contact_sheet(pick_scenes(views(), options.count))
    with disk_errors(options.out.parent):
        write_whole(options.out, cv2.imencode(".png", sheet[..., ::-1])[1].tobytes())
    print(f"written to {options.out}")
    return 0


MIXED = (Split.TRAIN, Split.NOVEL, Split.TEST)
"""Splits that a sheet shows in turn where none is asked for."""
SAMPLES = {"en": "a", "es": "ñ¿", "de": "ß", "zh": "红色的"}
FONT_HINT = "install one, e.g. Debian's fonts-noto-cjk"


def _scene_options(options: argparse.Namespace):
    from rsvp_ros.tabletop.export import SceneOptions

    return SceneOptions(
        Split(options.split), options.size, options.views, options.instructions, tuple(options.languages)
    )


class _Progress:
    """One line on a terminal that is written anew, lines now and then elsewhere."""

    def __init__(self) -> None:
        self._started = self._shown = time.monotonic()
        self._first: int | None = None
        self._terminal = sys.stderr.isatty()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._terminal and self._first is not None:
            print(file=sys.stderr)

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._first is None:  # those that were there already count for nothing in the rate
            self._first, self._started = done, now
        elif now - self._shown < (0.2 if self._terminal else 10) and done < total:
            return
        self._shown = now
        rate = (done - self._first) / max(now - self._started, 1e-6)
        text = f"{done} of {total} scenes"
        if rate:
            left = round((total - done) / rate)
            text += f", {rate:.1f}/s, {left // 60}:{left % 60:02d} left"
        print(f"\r\x1b[K{text}" if self._terminal else text, end="" if self._terminal else "\n", file=sys.stderr)
        sys.stderr.flush()


def _positive(text: str) -> int:
    return _whole(text, 1)


def _not_negative(text: str) -> int:
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    width, cross, height = text.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal() and min(int(width), int(height)) >= 32):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size of at least 32x32, such as 640x480")
    return int(width), int(height)
