"""`rsvp evaluate`: how accurate a configuration is. Its dependencies are imported only when it runs."""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rsvp_ros import config as configuration
from rsvp_ros.arguments import not_negative, positive
from rsvp_ros.errors import ConfigurationError
from rsvp_ros.evaluation.interrupt import interrupt_checked
from rsvp_ros.files import disk_errors
from rsvp_ros.progress import Progress
from rsvp_ros.tabletop.commands import image_size
from rsvp_ros.tabletop.instruction import LANGUAGES, InstructionKind
from rsvp_ros.tabletop.scenes import MOST, OBJECTS
from rsvp_ros.tabletop.splits import Split

if TYPE_CHECKING:
    from rsvp_ros.config import Config
    from rsvp_ros.evaluation.report import Results
    from rsvp_ros.evaluation.tabletop import System
    from rsvp_ros.tabletop.export import SceneOptions


def add_evaluate(commands: argparse._SubParsersAction) -> None:
    """Add `evaluate` and its sub-commands to `rsvp`."""
    parser = commands.add_parser(
        "evaluate", help="measure how accurate a configuration is, on scenes with known answers"
    )
    subcommands = parser.add_subparsers(dest="evaluate_command", required=True)
    _add_tabletop(subcommands)
    _add_images(subcommands)
    _add_drawn(subcommands)
    _add_compare(subcommands)


def _add_tabletop(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "tabletop",
        help="evaluate on the tabletop world: masks, boxes, positions, refusals, tracking",
        description="Ask a configuration about scenes of the tabletop world and have it follow things through clips, "
        "in the same way as the node does. Prints the figures and writes them to table.txt and results.json, and the "
        "worst cases to worst.html; see docs/evaluation.md. Needs the extra 'sim'. Ctrl-C ends the run, and the "
        "results up to then are still written.",
    )
    configuration.add_options(parser)
    parser.add_argument(
        "--split",
        choices=[split.value for split in Split],
        default="test",
        help="split of the tabletop world (default: %(default)s)",
    )
    parser.add_argument("--count", type=not_negative, default=100, help="number of scenes (default: %(default)s)")
    parser.add_argument("--seed", type=not_negative, default=0, help="seed of the first scene and clip (default: 0)")
    parser.add_argument(
        "--objects",
        nargs=2,
        type=positive,
        default=OBJECTS,
        metavar=("LEAST", "MOST"),
        help="how many things a scene has; does not apply to clips (default: {} {})".format(*OBJECTS),
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
        default=8,
        help="maximum number of instructions about each scene (default: %(default)s)",
    )
    parser.add_argument(
        "--languages",
        nargs="+",
        choices=LANGUAGES,
        default=LANGUAGES,
        metavar="LANGUAGE",
        help=f"languages of the instructions, any of {', '.join(LANGUAGES)} (default: all)",
    )
    parser.add_argument(
        "--clips", type=not_negative, default=0, help="number of clips in which to follow things (default: 0)"
    )
    parser.add_argument(
        "--clip-seconds",
        type=_clip_seconds,
        default=20.0,
        metavar="SECONDS",
        help="length of a clip, at 10 images per second; all images are kept in memory: 6 MB per second at 320x240 "
        "(default: %(default)g)",
    )
    parser.add_argument(
        "--reasoner",
        choices=("configured", "literal", "oracle"),
        default="configured",
        help="stage 1: the configured MLLM (literal if there is none), the instruction's words themselves, or the true "
        "answer (default: %(default)s)",
    )
    parser.add_argument(
        "--region",
        choices=("box", "bands", "image"),
        default="box",
        help="how precisely --reasoner oracle gives the region: true box, its bands or whole image (default: box)",
    )
    parser.add_argument(
        "--segmenter",
        choices=("configured", "boxes", "oracle"),
        default="configured",
        help="stage 2: the configured model, the same without the words, or the true masks (default: %(default)s)",
    )
    parser.add_argument(
        "--wider",
        action="store_true",
        help="ask, where a view allows it, what the usual questions leave out: "
        "colours on what a place, an order or a size singles out, and kinds beside something that are not there",
    )
    parser.add_argument("--prompts", action="store_true", help="measure only the segmenter, by kind of prompt")
    parser.add_argument(
        "--out", type=Path, default=Path("out/tabletop"), help="folder for the results (default: %(default)s)"
    )
    parser.set_defaults(run=functools.partial(_tabletop, parser))


def _add_images(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "images",
        help="measure the segmenter on your own images with masks",
        description="For each mask in a folder, give the configured segmenter the box around it, with every side moved "
        "in or out by a share of the box's size; print the mean IoU, and that of the boxes themselves.",
    )
    configuration.add_options(parser)
    parser.add_argument(
        "folder",
        type=Path,
        help="folder with images/NAME.jpg and masks/NAME.png (grey or palette, one value per object, 0 for none, as in "
        "DAVIS)",
    )
    parser.add_argument(
        "--jitter",
        nargs=2,
        type=float,
        default=(0.05, 0.10),
        metavar=("LEAST", "MOST"),
        help="least and most by which a side is moved, as a share of the box (default: 0.05 0.10)",
    )
    parser.add_argument("--repeats", type=positive, default=5, help="number of boxes per mask (default: %(default)s)")
    parser.add_argument("--seed", type=not_negative, default=0, help="seed of the boxes (default: %(default)s)")
    parser.set_defaults(run=_images)


def _add_drawn(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "drawn",
        help="measure the segmenter on drawn scenes, by kind of prompt",
        description="Ask the configured segmenter about scenes drawn from random numbers and textures that training "
        "does not use (docs/training.md); print the mean IoU and how often the right object was found, by kind of "
        "prompt, and how well presence, judged at tracker.min_presence, tells what is there.",
    )
    configuration.add_options(parser)
    parser.add_argument(
        "--count", type=positive, default=400, help="number of scenes, half of them dead leaves (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=not_negative, default=20_000_003, help="seed of the scenes (default: %(default)s)"
    )
    parser.set_defaults(run=_drawn)


def _add_compare(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "compare",
        help="compare two runs of `rsvp evaluate tabletop`: what the second gained over the first",
        description="Print the second run's figures, their gains over the first run's, and the standard errors of the "
        "gains. Both runs must have been asked the same (split, seed, count, objects, size, instructions, languages, "
        "wider). A gain of less than two standard errors may be chance.",
    )
    parser.add_argument("before", type=Path, help="folder of the first run (its `--out`)")
    parser.add_argument("after", type=Path)
    parser.set_defaults(run=_compare)


def _clip_seconds(text: str) -> float:
    """A length of at least two images, as things are followed from the first image to later ones."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.2 <= seconds <= 3600:  # so NaN is refused, too
        raise argparse.ArgumentTypeError(f"{text!r} is not a length from 0.2 to 3600 seconds")
    return seconds


_NOT_WITH_PROMPTS = ("reasoner", "region", "segmenter", "instructions", "languages", "wider", "clips", "clip_seconds")
"""Options without effect when the segmenter alone is measured."""


def _tabletop(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from rsvp_ros.tabletop.export import SceneOptions

    if options.prompts:
        ignored = [name for name in _NOT_WITH_PROMPTS if getattr(options, name) != parser.get_default(name)]
        if ignored:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in ignored)
            parser.error(f"--prompts measures the segmenter alone: leave out {names}")
    elif options.region != parser.get_default("region") and options.reasoner != "oracle":
        parser.error("--region is for --reasoner oracle: the configured one gives its own regions")
    if not (options.clips or (options.count and (options.instructions or options.prompts))):
        parser.error("nothing is asked: give --count and --instructions, or --clips, more than 0")
    if not options.objects[0] <= options.objects[1] <= MOST:
        parser.error(
            "there is no scene with {} to {} things: give --objects LEAST MOST, up to {}".format(*options.objects, MOST)
        )
    config = configuration.load_changed(options.config, options.set)
    scenes = SceneOptions(
        Split(options.split), options.size, instructions=options.instructions, languages=tuple(options.languages)
    )
    with disk_errors(options.out):
        options.out.mkdir(parents=True, exist_ok=True)  # fail now, not after hours
    default = configuration.flatten(configuration.Config())
    changed = {name: value for name, value in configuration.flatten(config).items() if value != default[name]}
    asked = {
        "split": options.split,
        "first seed": options.seed,
        "scenes": options.count,
        "things in a scene": "{} to {}".format(*options.objects),
        "size": "{}x{}".format(*options.size),
        "instructions a scene": options.instructions,
        "languages": ", ".join(options.languages),
        **({"forms": "wider"} if options.wider else {}),
        "clips": options.clips,
        "seconds a clip": options.clip_seconds,
        "parameters": ", ".join(f"{name}={value}" for name, value in changed.items()) or "all default",
    }
    return (_prompts if options.prompts else _whole)(options, config, scenes, asked)


def _whole(options: argparse.Namespace, config: Config, scenes: SceneOptions, asked: dict) -> int:
    """All stages, in the same way as the node runs them."""
    from rsvp_ros.evaluation.oracles import Region
    from rsvp_ros.evaluation.report import Results
    from rsvp_ros.evaluation.tabletop import System

    with System.configured(config, options.reasoner, options.segmenter, Region(options.region)) as system:
        results = Results(asked)
        try:
            with interrupt_checked() as check:
                _ask(options, scenes, system, results, check)
                _follow(options, scenes, system, results, check)
            results.complete = True
        finally:  # also after Ctrl-C and errors
            results.settings = {**system.names, **asked}  # a server's model name may only be known by now
            try:
                print(results.table(), flush=True)  # first, so that it appears even if nothing can be written
            finally:
                earlier = (options.out / "results.json").exists()
                if results.answers or results.followed or not earlier:  # what was found is not replaced by nothing
                    with disk_errors(options.out):
                        results.write(options.out)
                    print(f"\nwritten to {options.out}/: table.txt, results.json, worst.html")
    return 0


def _ask(
    options: argparse.Namespace, scenes: SceneOptions, system: System, results: Results, check: Callable[[], None]
) -> None:
    from rsvp_ros.evaluation.tabletop import answer
    from rsvp_ros.tabletop.export import instructions_about
    from rsvp_ros.tabletop.scenes import sample_scene
    from rsvp_ros.tabletop.world import render_scene

    for seed in _counted("scene", options.seed, options.count):
        (view,) = render_scene(scenes.split, seed, size=scenes.size, objects=options.objects, full_masks=False)
        top = sample_scene(scenes.split, seed, options.objects).table.style
        for instruction in instructions_about(view, scenes, seed, wider=options.wider):
            results.add(answer(system, seed, view, instruction, top))
            check()


def _follow(
    options: argparse.Namespace, scenes: SceneOptions, system: System, results: Results, check: Callable[[], None]
) -> None:
    from rsvp_ros.evaluation.tabletop import follow_boxes, follow_instruction
    from rsvp_ros.tabletop.clips import render_clip, sample_clip
    from rsvp_ros.tabletop.instructions import sample_instructions

    for seed in _counted("clip", options.seed, options.clips):
        views = list(render_clip(sample_clip(scenes.split, seed, options.clip_seconds, size=scenes.size)))
        check()
        results.followed += follow_boxes(system, seed, views)
        check()
        sampled = sample_instructions(
            views[0],
            scenes.split.generator(seed, "instruction about a clip"),
            6,
            scenes.languages,
            is_training=scenes.split.known,
            kinds=(InstructionKind.ATTRIBUTE,),
        )
        instruction = next((instruction for instruction in sampled if len(instruction.targets) == 1), None)
        if instruction is not None:
            results.followed.append(follow_instruction(system, seed, views, instruction))
            check()


def _prompts(options: argparse.Namespace, config: Config, scenes: SceneOptions, asked: dict) -> int:
    """The segmenter alone."""
    from rsvp_ros.evaluation.report import PromptResults
    from rsvp_ros.evaluation.tabletop_prompts import ask, questions
    from rsvp_ros.segmentation.loading import load_segmenter
    from rsvp_ros.tabletop.world import render_scene

    segmenter = load_segmenter(config.segmenter)
    settings = {
        name: asked[name] for name in ("split", "first seed", "scenes", "things in a scene", "size", "parameters")
    }
    results = PromptResults({"segmenter": segmenter.name, **settings}, config.tracker.min_presence)
    try:
        with interrupt_checked() as check:
            for seed in _counted("scene", options.seed, options.count):
                (view,) = render_scene(scenes.split, seed, size=scenes.size, objects=options.objects, full_masks=False)
                results.replies += ask(segmenter, view, list(questions(view, scenes.split.generator(seed, "prompts"))))
                results.scenes += 1
                check()
        results.complete = True
    finally:  # also after Ctrl-C and errors
        try:
            print(results.table(), flush=True)
        finally:
            if results.replies or not (options.out / "prompts.json").exists():
                with disk_errors(options.out):
                    results.write(options.out)
                print(f"\nwritten to {options.out}/prompts.json")
    return 0


def _counted(name: str, first: int, count: int) -> Iterator[int]:
    """Seeds starting from `first`, with progress on stderr."""
    with Progress(name) as progress:
        for number in range(count):
            yield first + number
            progress.update(number + 1, count)


def _images(options: argparse.Namespace) -> int:
    from rsvp_ros.evaluation.metrics import mean
    from rsvp_ros.evaluation.segmentation import measure_images, read_masked_images
    from rsvp_ros.segmentation.loading import load_segmenter

    least, most = options.jitter
    if not 0 <= least <= most < math.inf:  # so NaN is refused, too
        raise ConfigurationError(f"--jitter {least:g} {most:g}: give LEAST MOST, from 0 on")
    config = configuration.load_changed(options.config, options.set)
    images = read_masked_images(options.folder)
    segmenter = load_segmenter(config.segmenter)
    ious, boxes = measure_images(segmenter, images, (least, most), options.repeats, options.seed)
    print(f"{segmenter.name}: mean IoU {mean(ious):.3f} of {len(ious)} masks; the boxes themselves {mean(boxes):.3f}")
    return 0


def _drawn(options: argparse.Namespace) -> int:
    from rsvp_ros.evaluation.segmentation import held_out_scenes, measure_scenes, report
    from rsvp_ros.segmentation.loading import load_segmenter

    config = configuration.load_changed(options.config, options.set)
    segmenter = load_segmenter(config.segmenter)
    measures = measure_scenes(segmenter, held_out_scenes(options.seed, options.count))
    print(report(measures, config.tracker.min_presence))
    return 0


def _compare(options: argparse.Namespace) -> int:
    from rsvp_ros.evaluation.comparison import compare, paired, read_run

    print(compare(paired(read_run(options.before), read_run(options.after))))
    return 0
