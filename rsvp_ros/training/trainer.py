"""Trains a VLSM: `train(config)`, deterministic given its seed on a CPU, resumable after a kill."""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.files import disk_errors
from rsvp_ros.textures import TextureBank
from rsvp_ros.training.batches import in_order
from rsvp_ros.training.calibration import calibrate_presence
from rsvp_ros.training.checkpoint import Checkpoints
from rsvp_ros.training.config import TrainConfig
from rsvp_ros.training.cutouts import read_cutouts
from rsvp_ros.training.dataset import Batch, MixedDataset
from rsvp_ros.training.datasets.loading import divided, open_dataset
from rsvp_ros.training.failures import TrainingDivergedError, check_finite, memory_errors
from rsvp_ros.training.losses import soft_iou
from rsvp_ros.training.networks import make_learner
from rsvp_ros.training.optimizer import make_optimizer, set_learning_rate
from rsvp_ros.training.processes import start_processes
from rsvp_ros.training.prompts import PromptKind
from rsvp_ros.training.report import Report
from rsvp_ros.training.sources import PHOTOGRAPHED, read_photographs, tabletop_records

_log = logging.getLogger(__name__)

ACCEPTED, REFUSED = "present accepted", "absent refused"
"""Held-out figures: share of the prompts whose presence is on the correct side of 0.5."""


CALIBRATION = 16
"""How many times as many held-out batches the calibration of presence takes as a validation."""


def learning_rate(config: TrainConfig, step: int) -> float:
    """Warm-up, constant, linear decay to zero."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    decay = (config.steps - step) / max(1.0, config.steps * config.decay_share)
    return config.learning_rate * min(warm, decay, 1.0)


HASTE = 20.0
"""Factor on the learning rate of the parameters in `Learner.hasty`."""


class Trainer:
    """Network, optimiser and their progress. Use it through `train`.

    With several processes, each makes its own images: process r of n takes the batches r, n + r, 2 n + r, …
    """

    def __init__(self, config: TrainConfig) -> None:
        """Raises ConfigurationError (device, precision, folders, data sets), ModelLoadError (`init`, `backbone`),
        InvalidImageError (a data set without its images)."""
        self.config = config
        self.processes = start_processes(config.device, config.precision)
        self.device = self.processes.device
        self.out = Path(config.out).expanduser()
        with disk_errors(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        self.checkpoints = Checkpoints(self.out)
        torch.set_num_threads(config.threads)
        cv2.setNumThreads(config.threads)
        torch.manual_seed(config.seed)
        self.learner = make_learner(config, self.device)
        self.model = self.learner.model
        if config.compile:
            for part in self.learner.compilable:
                part.compile()
        self.optimizer = make_optimizer(
            self.learner.trained.named_parameters(), config.learning_rate, config.weight_decay,
            muon=self.learner.muon and config.steps > 0, hasty=self.learner.hasty, haste=HASTE,
        )  # fmt: skip
        self._network, self._optimizer = self.processes.prepare(self.learner, self.optimizer)
        self.step = 0
        self.seconds = 0.0
        self._annotated = [open_dataset(data) for data in config.datasets]
        self._cutouts = read_cutouts(config.cutouts)
        self.dataset = self._dataset(held_out=False)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.processes.rank == 0

    def _dataset(self, held_out: bool) -> MixedDataset:
        c = self.config
        seed = c.seed + 1_000_003 * held_out
        photographs = read_photographs(c.photographs, max(1, round(c.textures * PHOTOGRAPHED)))
        bank = TextureBank(np.random.default_rng((seed, 1 << 30)), c.textures, photographs, PHOTOGRAPHED)
        records = tabletop_records(c.tabletop, held_out) if c.shares.tabletop else ()
        annotated = tuple(divided(images, held_out) for images in self._annotated)
        return MixedDataset(
            seed,
            c.sizes,
            c.images,
            c.prompts,
            bank,
            c.shares,
            self.learner.grid,
            records,
            annotated,
            self._cutouts,
            0 if held_out else c.questions,
        )

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint. Raises ConfigurationError if it cannot be written, and TrainingDivergedError if the
        weights are no numbers; the previous ones are then kept."""
        check_finite(self.learner.trained)
        with disk_errors(self.out):
            self.checkpoints.write(
                {
                    "model": self.learner.trained.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "step": self.step,
                    "seconds": self.seconds,
                    "model_config": dataclasses.asdict(self.learner.trained.config),
                    "processes": self.processes.count,
                    **self.processes.state(),
                }
            )

    def resume(self) -> bool:
        """Resume from the newest usable checkpoint; False if there are no checkpoints.

        Raises ConfigurationError if there are checkpoints but none is usable. The trainer is then unchanged.
        """
        path = self.checkpoints.restore(self._load)
        if path is not None and self.is_main:
            _log.info("resumed at step %d from %s", self.step, path)
        return path is not None

    def _load(self, state: dict[str, Any]) -> None:
        """Load a checkpoint completely or not at all: raises any exception if it cannot be used."""
        network = self.learner.trained
        untouched = copy.deepcopy((network.state_dict(), self.optimizer.state_dict()))
        decays = [group["weight_decay"] for group in self.optimizer.param_groups]
        step, seconds = state["step"], state["seconds"]
        if _without_place(state["model_config"]) != _without_place(dataclasses.asdict(network.config)):
            raise ValueError(f"it is of another `model`, `backbone` or `text_path`, {state['model_config']}")
        if (count := state.get("processes", 1)) != self.processes.count:
            raise ValueError(f"it was made by {count} processes, and here are {self.processes.count}")
        try:
            network.load_state_dict(state["model"])
            check_finite(network)
            self.optimizer.load_state_dict(state["optimizer"])
            self.processes.load_state(state)
        except Exception:
            network.load_state_dict(untouched[0])
            self.optimizer.load_state_dict(untouched[1])
            raise
        for group, decay in zip(self.optimizer.param_groups, decays, strict=True):
            group["weight_decay"] = decay  # the checkpoint's does not count
        self.step, self.seconds = step, seconds

    # --- steps --------------------------------------------------------------------------------------------------------

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self.processes.autocast())
            if self.device.type == "cpu":  # the flash kernel's backward pass is slow there
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            yield

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One step of the optimiser; returns the losses by name, averaged over all processes.

        Raises TrainingDivergedError before the weights are touched.
        """
        set_learning_rate(self.optimizer, learning_rate(self.config, self.step))
        self._network.train()
        with self._computing():
            _, losses = self._network(batch)
            loss = losses.total
        self._optimizer.zero_grad(set_to_none=True)
        self.processes.backward(loss)
        norm = self.processes.clip(self.learner.trained.parameters(), self.config.clip_norm)
        named = {"total": loss, **vars(losses)}
        # One transfer from the device and one exchange between processes for all of them.
        values = self.processes.total(torch.stack([*named.values(), norm]).detach().float()) / self.processes.count
        *values, norm = values.tolist()
        if not math.isfinite(values[0]) or not (math.isfinite(norm) or self.processes.can_skip()):
            held, again = "there is no checkpoint yet", "start again"
            if last := self.checkpoints.last:
                held, again = f"{last} holds the last good weights", "start again, it is resumed from there"
            raise TrainingDivergedError(
                f"the loss or its gradient is not finite at step {self.step}; {held}: lower `learning_rate` and {again}"
            )
        self._optimizer.step()
        self.step += 1
        return dict(zip(named, values, strict=True))

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean IoU by kind of prompt on held-out images, on the regions' grids; accuracy of presence at 0.5."""
        self.learner.eval()
        held_out = self._dataset(held_out=True)
        names = [*(kind.value for kind in PromptKind), ACCEPTED, REFUSED]
        sums = torch.zeros(2, len(names))

        def add(name: str, value: float) -> None:
            sums[:, names.index(name)] += torch.tensor((value, 1.0))

        for number in range(self.processes.rank, self.config.validation_batches, self.processes.count):
            batch = held_out[number].to(self.device)
            with self._computing():
                output, _ = self.learner(batch)
            ious = soft_iou(output.masks.sigmoid(), batch.masks, batch.known).tolist()
            right = ((output.presence > 0) == batch.present).tolist()
            for kind, iou, ok, judged in zip(batch.kinds, ious, right, batch.judged.tolist(), strict=True):
                if kind is PromptKind.ABSENT:
                    add(REFUSED, ok)
                else:
                    add(kind.value, iou)
                    if judged:
                        add(ACCEPTED, ok)
        totals, counts = self.processes.total(sums.to(self.device)).tolist()
        return {name: total / count for name, total, count in zip(names, totals, counts, strict=True) if count}

    def _log_figures(self, report: Report | None) -> None:
        figures = self.validate()
        if report:
            report.validated(self.step, figures)

    def calibrate(self) -> None:
        """Shift presence for use; call it once, at the end. Checkpoints do not contain the shift."""
        held_out = self._dataset(held_out=True)
        numbers = range(CALIBRATION * self.config.validation_batches)
        with self._computing():
            shift = calibrate_presence(self.learner, (held_out[number].to(self.device) for number in numbers))
        _log.info("presence shifted by %.2f", shift)

    def _batches(self) -> Iterator[Batch]:
        """The remaining batches of this process, in order, whichever process makes them."""
        c, processes = self.config, self.processes
        numbers = range(self.step * processes.count + processes.rank, c.steps * processes.count, processes.count)
        return in_order(self.dataset, numbers, c.workers, self.device)

    def run(self) -> None:
        """Train up to the last step, with log, checkpoints and validation.

        Raises TrainingDivergedError, ConfigurationError (a full disk), and whatever damaged data raise.
        """
        config, started = self.config, time.monotonic() - self.seconds
        with Report(self.out, self.step, config.steps) if self.is_main else nullcontext() as report:
            if config.steps == 0:
                self._log_figures(report)
            for batch in self._batches():
                losses = self.train_step(batch)
                last = self.step == config.steps
                self.seconds = time.monotonic() - started
                if report:
                    report.add(self.step, self.seconds, losses)
                if self.step % config.validate_every == 0 or last:
                    self._log_figures(report)
                if self.is_main and (self.step % config.checkpoint_every == 0 or last):
                    self.save()


def train(config: TrainConfig) -> Path | None:
    """Train, resuming if `config.out` holds a checkpoint; returns the folder of the finished weights.

    With several processes, only one writes; the others return None. Raises ConfigurationError (options, checkpoints of
    another model, a training in `out` although `steps` is 0, a full disk), ModelLoadError (`init`, `backbone`),
    TrainingDivergedError (a loss or gradient that is not finite), InvalidImageError (damaged data), ModelRunError (not
    enough memory, weights too large for float16).
    """
    trainer = Trainer(config)
    if config.steps == 0 and trainer.checkpoints.last:
        raise ConfigurationError(
            f"{trainer.out} holds a training, which `steps` 0 would overwrite: choose another `out`"
        )
    trainer.resume()
    with memory_errors(trainer, "fewer `images` or `prompts`, or smaller `sizes`"):
        trainer.run()
    weights = trainer.out / "weights"
    if trainer.is_main:
        trainer.calibrate()
        with disk_errors(weights):
            trainer.model.save_pretrained(weights)
    trainer.processes.close()
    return weights if trainer.is_main else None


def _without_place(model_config: dict[str, Any]) -> dict[str, Any]:
    """A model's configuration without the SAM's location: only its architecture and sizes make it another model."""
    return {name: value for name, value in model_config.items() if name != "backbone"}
