"""`rsvp`: the system on files, without a robot and without ROS.

Groups of commands have their own modules (`rsvp_ros/*/commands.py`), which import what a command needs when it runs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from rsvp_ros import config as configuration
from rsvp_ros.errors import ConfigurationError, InvalidImageError, RsvpError
from rsvp_ros.evaluation.commands import add_evaluate
from rsvp_ros.files import disk_errors
from rsvp_ros.geometry import Box
from rsvp_ros.perception import Perception
from rsvp_ros.reasoning.mllm.loading import load_mllm
from rsvp_ros.reasoning.reasoner import Reasoner
from rsvp_ros.request import Outcome
from rsvp_ros.segmentation.loading import load_segmenter
from rsvp_ros.tabletop.commands import add_tabletop
from rsvp_ros.training.commands import add_train
from rsvp_ros.types import Frame, ReasoningStep
from rsvp_ros.visualization import draw_proposals, draw_targets, reasoning_panel

FOUND, NOT_FOUND, FAILED = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="rsvp", description="Run the system on files, without a robot and without ROS."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_segment(commands)
    add_tabletop(commands)
    add_evaluate(commands)
    add_train(commands)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except RsvpError as error:
        print(f"rsvp {options.command}: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return 130


def _add_segment(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "segment",
        help="find in an image what an instruction refers to",
        description="Find in an image what an instruction refers to, and write overlay.png, one mask per target "
        "(mask_<id>.png, 255 on the target) and result.json with the reasoning. Exit status: 0 found, 1 not in the "
        "image, 2 error.",
    )
    parser.add_argument("image", type=Path, help="image file that OpenCV can read: JPEG, PNG, WebP, …")
    parser.add_argument("instruction", nargs="?", default="", help='e.g. "something to cut the rope with"')
    parser.add_argument(
        "--box",
        nargs=4,
        type=float,
        metavar=("X0", "Y0", "X1", "Y1"),
        help="segment what is in this box [px], without reasoning; the instruction then only names it and may be left "
        "out",
    )
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the results (default: %(default)s)")
    configuration.add_options(parser)
    parser.add_argument("--quiet", action="store_true", help="do not print the reasoning as it comes")
    parser.set_defaults(run=_segment)


def _segment(options: argparse.Namespace) -> int:
    config = configuration.load_changed(options.config, options.set)
    image = read_image(options.image)
    try:
        box = Box.ordered(*options.box) if options.box else None
    except ValueError as error:
        raise ConfigurationError(f"--box: {error}") from error
    if box is None and not options.instruction:
        raise ConfigurationError("give an instruction, or a box with --box")
    with disk_errors(options.out):  # checked before a model runs for minutes
        options.out.mkdir(parents=True, exist_ok=True)
    needed = box is None and config.mllm.backend != "none"
    mllm = load_mllm(getattr(config.mllm, config.mllm.backend), isolated=False) if needed else None
    try:
        outcome = find_in_image(image, options.instruction, box, config, mllm, quiet=options.quiet)
    finally:
        if mllm is not None:
            mllm.close()
    with disk_errors(options.out):
        write_results(options.out, image, outcome)
    targets = outcome.result.targets
    for target in targets:
        box = ", ".join(f"{side:.0f}" for side in target.box.as_tuple())
        print(f"{target.name or 'target'} [{box}] score {target.score:.2f}")
    if not targets:
        print("not in the image")
    print(f"written to {options.out}/")
    return FOUND if targets else NOT_FOUND


def find_in_image(
    image: np.ndarray, instruction: str, box: Box | None, config: configuration.Config, mllm, quiet: bool = True
) -> Outcome:
    """Run one instruction on one image (uint8 H x W x 3 RGB) through the same system that follows a camera."""
    printed = 0

    def show(request, text: str) -> None:
        nonlocal printed
        steps: Sequence[ReasoningStep] = request.steps
        # The last step may still be incomplete.
        finished = len(steps) if request.reasoning is not None else len(steps) - 1
        if len(steps) < printed:
            print("(asked again)", flush=True)
            printed = 0
        for step in steps[printed:finished]:
            print(f"{step.name}: {step.text}", flush=True)
        printed = max(printed, finished)

    perception = Perception(
        lambda: load_segmenter(config.segmenter),
        Reasoner(mllm, config.reasoner) if mllm is not None else None,
        on_targets=lambda result: None,
        on_progress=None if quiet else show,
        config=config.perception,
        tracker_config=config.tracker,
        max_instruction_chars=config.reasoner.max_instruction_chars,
    )
    perception.start()
    try:
        perception.submit(Frame(image, 0))
        return perception.find(instruction, box).result()
    finally:
        perception.close()


def read_image(path: Path) -> np.ndarray:
    """Read an image file as uint8 H x W x 3 RGB. Raises InvalidImageError."""
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except OSError as error:
        raise InvalidImageError(f"the image {path} cannot be read: {error.strerror}") from error
    except cv2.error as error:  # e.g. more than 2^30 pixels
        raise InvalidImageError(f"{path} is too large for OpenCV, or damaged: scale it down") from error
    if image is None:
        raise InvalidImageError(f"{path} is not an image that OpenCV reads (JPEG, PNG, WebP, TIFF, BMP, …)")
    if min(image.shape[:2]) < 2:
        raise InvalidImageError(f"{path} is {image.shape[1]} x {image.shape[0]} pixels: at least 2 x 2 are needed")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def write_results(folder: Path, image: np.ndarray, outcome: Outcome) -> None:
    """Write overlay.png, mask_<id>.png for each target and result.json to an existing folder, in place of those that an
    earlier run wrote there. Raises OSError."""
    targets, reasoning = outcome.result.targets, outcome.reasoning
    picture = draw_targets(image, targets) if targets else draw_proposals(image, reasoning.proposals)
    if reasoning.steps:
        panel = reasoning_panel(reasoning, picture.shape[0])
        picture = np.concatenate([picture, panel], axis=1)
    for old in _masks_written(folder):
        old.unlink()
    _write_png(folder / "overlay.png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    for target in targets:  # each has a mask: in a single image no target is hidden
        _write_png(folder / f"mask_{target.id}.png", target.mask.view(np.uint8) * np.uint8(255))
    result = {
        "instruction": reasoning.instruction,
        "found": bool(targets),
        "image_size": [image.shape[1], image.shape[0]],
        "targets": [
            {
                "id": target.id,
                "name": target.name,
                "description": target.description,
                "box": [*target.box.as_tuple()],
                "score": target.score,
                "presence": target.presence,
                "mask": f"mask_{target.id}.png",
            }
            for target in targets
        ],
        "reasoning": dataclasses.asdict(reasoning),
    }
    (folder / "result.json").write_text(json.dumps(result, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _masks_written(folder: Path) -> list[Path]:
    """The masks of an earlier run, which its result.json names; other files of such names are the user's own."""
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        names = {target["mask"] for target in result["targets"]}
    except (OSError, ValueError, TypeError, KeyError):  # there is none, or it is not of this program
        return []
    return [path for path in folder.glob("mask_*.png") if path.name in names]


def _write_png(path: Path, image: np.ndarray) -> None:
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())


if __name__ == "__main__":
    sys.exit(main())
