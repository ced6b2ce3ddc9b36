"""`rsvp train`: train the package's networks yourself. Its dependencies are imported only when it runs."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

from rsvp_ros.training.mllm.commands import add_mllm
from rsvp_ros.training.options import add_options, given_options


def add_train(commands: argparse._SubParsersAction) -> None:
    """Add `train` and its sub-commands to `rsvp`."""
    parser = commands.add_parser("train", help="train the networks that come with the package, or a text path on a SAM")
    subcommands = parser.add_subparsers(dest="train_command", required=True)
    _add_vlsm(subcommands)
    add_mllm(subcommands)
    _add_mean(subcommands)


def _add_vlsm(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "vlsm",
        help="the segmentation network: box and text in, mask out",
        description="Train a VLSM, or a text path on a pretrained SAM or SAM 2, and print the folder of its weights. "
        "After an interruption, the same command resumes from the last checkpoint. On several GPUs: accelerate launch "
        "--num_processes N --module rsvp_ros.cli train vlsm …. See docs/training.md.",
    )
    add_options(parser, "config/train/vlsm_embedded.yaml", "model.dim=80", "checkpoints, log, curve and weights")
    parser.set_defaults(run=functools.partial(_vlsm, parser))


def _vlsm(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from rsvp_ros.training.config import TrainConfig
    from rsvp_ros.training.trainer import train

    given = given_options(parser, options)
    weights = train(TrainConfig.from_file(options.config, options.set, **given))
    if weights is not None:
        print(weights)
    return 0


def _add_mean(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "mean",
        help="average the weights of several networks of the same size into one network",
        description="Write the mean of the weights of several trainings of either network (VLSM or MLLM). An averaged "
        "VLSM then needs its presence calibrated: rsvp train vlsm --out OTHER --steps 0 --set init=FOLDER. See "
        "docs/training.md.",
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="folder with the weights of a training")
    parser.add_argument(
        "--shares",
        type=float,
        nargs="+",
        metavar="SHARE",
        help="share of each network in the mean, e.g. 3 1 (default: equal)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights")
    parser.set_defaults(run=_mean)


def _mean(options: argparse.Namespace) -> int:
    from rsvp_ros.training.mean import mean_weights

    mean_weights(options.folders, options.shares or [1.0] * len(options.folders), options.out)
    print(options.out)
    return 0
