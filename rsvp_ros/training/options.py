"""The options that the commands of `rsvp train` share."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path


def add_options(parser: argparse.ArgumentParser, config: str, option: str, out: str) -> None:
    """Add --config, --out, --steps and --set. `config`, `option`: examples for --config and --set; `out`: what is
    written to --out."""
    parser.add_argument("--config", type=Path, help=f"a training configuration, e.g. {config}")
    parser.add_argument("--out", help=f"folder for {out} (default: as in the configuration)")
    parser.add_argument("--steps", type=int, help="number of optimiser steps (default: as in the configuration)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"override one option of --config, e.g. learning_rate=5e-4 or {option}; may be repeated",
    )


def given_options(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, object]:
    """Those of --out and --steps that were given; also sends progress to the log from now on. Ends the program if
    neither --config nor --out says where to write."""
    given = {name: value for name in ("out", "steps") if (value := getattr(options, name)) is not None}
    if not options.config and "out" not in given and not any(text.startswith("out=") for text in options.set):
        parser.error("give --config or --out")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return given
