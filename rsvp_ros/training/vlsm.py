"""`python -m rsvp_ros.training.vlsm`: train the embedded VLSM."""

from __future__ import annotations

import argparse
import logging

from rsvp_ros.training.trainer import TrainConfig, train


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", help="JSON file with the fields of TrainConfig (docs/training.md)")
    parser.add_argument("--out", help="folder for checkpoints, log and weights; resumed where it holds a checkpoint")
    parser.add_argument("--steps", type=int, help="overrides the configuration's")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not options.config and not options.out:
        parser.error("give --config or --out")
    given = {name: value for name in ("out", "steps") if (value := getattr(options, name)) is not None}
    print(train(TrainConfig.from_file(options.config, **given) if options.config else TrainConfig(**given)))


if __name__ == "__main__":
    main()
