"""Started by torchrun in test_training_processes.py: a training in one go, and one that is gone on with; and one with
AdamW alone, as Muon makes of differences in rounding differences that can be seen.

Writes the weights that each process starts with, and those that it ends the first and the last one with, to the folder
in its argument.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import torch
from small_training import same, small_config, weights

from rsvp_ros.training.networks import VlsmLearner
from rsvp_ros.training.trainer import Trainer

OPTIONS = {
    "steps": 4, "checkpoint_every": 2, "validate_every": 4, "validation_batches": 3, "precision": "float32"
}  # fmt: skip


def main(out: Path) -> None:
    rank = int(os.environ["RANK"])
    whole = Trainer(small_config(out / "whole", **OPTIONS))
    assert (whole.processes.rank, whole.processes.count) == (rank, 2)
    start = weights(whole.model)
    whole.run()
    if rank == 0:
        (out / "resumed").mkdir()
        shutil.copy(whole.checkpoints.previous, out / "resumed" / whole.checkpoints.newest.name)
    torch.distributed.barrier()
    resumed = Trainer(small_config(out / "resumed", **OPTIONS))
    assert resumed.resume() and resumed.step == 2
    resumed.run()
    assert same(weights(whole.model), weights(resumed.model)), "a resumed training differs"
    VlsmLearner.muon = False
    plain = Trainer(small_config(out / "plain", **OPTIONS))
    plain.run()
    torch.save((start, weights(whole.model), weights(plain.model)), out / f"weights_{rank}.pt")
    whole.processes.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
