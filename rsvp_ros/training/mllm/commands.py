"""`rsvp train mllm`. Its dependencies are imported only when it runs."""

from __future__ import annotations

import argparse
import functools

from rsvp_ros.training.options import add_options, given_options


def add_mllm(commands: argparse._SubParsersAction) -> None:
    """Add `mllm` to `rsvp train`."""
    parser = commands.add_parser(
        "mllm",
        help="the small reasoner: image and instruction in, a chain of thought out",
        description="Train a small Qwen3-VL on scenes of `rsvp tabletop export` and print the folder of its weights. "
        "After an interruption, the same command resumes from the last checkpoint. See docs/embedded_mllm.md.",
    )
    add_options(
        parser, "config/train/mllm_embedded.yaml", "model.layers=5", "material, checkpoints, log, curve and weights"
    )
    parser.set_defaults(run=functools.partial(_mllm, parser))


def _mllm(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from rsvp_ros.training.mllm.trainer import MllmTrainConfig, train

    given = given_options(parser, options)
    print(train(MllmTrainConfig.from_file(options.config, options.set, **given)))
    return 0
