"""Trains a `Vlsm` on drawn images: `train(config)`, deterministic from its seed on a CPU, resumable after a kill."""

from __future__ import annotations

import copy
import dataclasses
import json
import logging
import math
import os
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader

from rsvp_ros.errors import ConfigurationError, RsvpError
from rsvp_ros.segmentation.torch_runtime import choose_device
from rsvp_ros.segmentation.vlsm import Vlsm, VlsmConfig, VlsmOutput
from rsvp_ros.textures import TextureBank
from rsvp_ros.training.dataset import Batch, MixedDataset, Shares
from rsvp_ros.training.losses import Losses, compute_losses, region_weights, soft_iou
from rsvp_ros.training.prompts import PromptKind

_log = logging.getLogger(__name__)


class TrainingDivergedError(RsvpError):
    """The loss is no longer a number. The last checkpoint is untouched."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training follows from."""

    out: str
    """Folder for checkpoints, log, curve and the finished weights."""
    steps: int = 7000
    seed: int = 0
    images: int = 4
    """Images in a batch."""
    shares: Shares = field(default_factory=Shares)
    """What the images are."""
    prompts: int = 5
    """Prompts about each image, at most."""
    sizes: tuple[tuple[int, int], ...] = ((192, 192),) * 2 + ((192, 256),) * 2 + ((240, 320),) * 3
    """Height and width of the images, multiples of 16."""
    workers: int = 0
    """Processes that make the images; 0: the training's own."""
    textures: int = 160
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    warmup_steps: int = 200
    decay_share: float = 0.6
    """The learning rate falls to zero over the last steps, this share of all; before, it is constant."""
    clip_norm: float = 1.0
    checkpoint_every: int = 250
    validate_every: int = 750
    validation_batches: int = 16
    threads: int = 1
    device: str = "cpu"
    bfloat16: bool = True
    """Mixed precision."""
    init: str | None = None
    """Folder with weights to start from; None: from nothing."""
    model: VlsmConfig = field(default_factory=VlsmConfig)

    def __post_init__(self) -> None:
        for name in ("steps", "images", "prompts", "checkpoint_every", "validate_every", "threads", "textures"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"training option `{name}` must be at least 1, it is {getattr(self, name)}")
        if not self.sizes or any(side % Vlsm.stride or side < 32 for size in self.sizes for side in size):
            raise ConfigurationError(
                f"training option `sizes` needs multiples of {Vlsm.stride} from 32, it is {self.sizes}"
            )

    @classmethod
    def from_file(cls, path: str | Path, **overrides: object) -> TrainConfig:
        """Read JSON; `overrides`: fields that take the place of the file's.

        Raises ConfigurationError naming the file and what is wrong in it.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
            values["model"] = VlsmConfig(**{k: _tuple(v) for k, v in values.get("model", {}).items()})
            values["shares"] = Shares(**values.get("shares", {}))
            return cls(**{k: _tuple(v) for k, v in values.items()} | overrides)
        except (OSError, ValueError, TypeError, AttributeError) as e:
            raise ConfigurationError(f"training configuration {path}: {e}; see docs/training.md for its fields") from e


def _tuple(value: object) -> object:
    """JSON knows only lists."""
    return tuple(_tuple(v) for v in value) if isinstance(value, list) else value


def learning_rate(config: TrainConfig, step: int) -> float:
    """Warm-up, constant, linear decay to zero."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    decay = (config.steps - step) / max(1.0, config.steps * config.decay_share)
    return config.learning_rate * min(warm, decay, 1.0)


def forward(model: Vlsm, batch: Batch) -> tuple[VlsmOutput, Losses]:
    """The network and its losses on one batch."""
    images = (batch.images.float() / 255).to(memory_format=torch.channels_last)
    features = model.encode_image(images)
    text = model.encode_text(batch.texts + batch.vocabulary)
    count = len(batch.texts)
    prompts = dataclasses.replace(text, **{name: value[:count] for name, value in vars(text).items()})
    output = model.decode(features, prompts, batch.boxes, batch.image_index)
    grounding = model.grounding(features.semantic, text.query[count:])
    return output, compute_losses(output, batch, grounding)


class Trainer:
    """Model, optimiser and where they stand. `train` is the way in."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.out = Path(config.out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.device = choose_device(config.device)
        torch.set_num_threads(config.threads)
        cv2.setNumThreads(config.threads)
        torch.manual_seed(config.seed)
        model = Vlsm.from_pretrained(config.init) if config.init else Vlsm(config.model)
        self.model = model.to(self.device, memory_format=torch.channels_last)
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=config.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        )
        self.step = 0
        self.seconds = 0.0
        self.dataset = self._dataset(config.seed)

    def _dataset(self, seed: int) -> MixedDataset:
        c = self.config
        bank = TextureBank(np.random.default_rng((seed, 1 << 30)), c.textures)
        return MixedDataset(seed, c.sizes, c.images, c.prompts, bank, c.shares)

    # --- checkpoints: written aside, then renamed, so that a kill leaves the old or the new one -----------------------

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoint.pt"

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "model_config": dataclasses.asdict(self.model.config),
        }
        aside = self.checkpoint.with_suffix(".tmp")
        torch.save(state, aside)
        if self.checkpoint.exists():
            os.replace(self.checkpoint, self.checkpoint.with_name("checkpoint_previous.pt"))
        os.replace(aside, self.checkpoint)

    def resume(self) -> bool:
        """Go on from the newest checkpoint that can be used; False where there is none at all.

        Raises ConfigurationError where there are checkpoints but none can be used: going on from nothing would
        overwrite them. The trainer is then as it was.
        """
        paths = [p for p in (self.checkpoint, self.checkpoint.with_name("checkpoint_previous.pt")) if p.exists()]
        untouched = copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict()))
        reasons = []
        for path in paths:
            try:
                state = torch.load(path, map_location=self.device, weights_only=True)
                step, seconds = state["step"], state["seconds"]
                if state["model_config"] != dataclasses.asdict(self.model.config):
                    raise ValueError(f"it is of another `model`, {state['model_config']}")
                self.model.load_state_dict(state["model"])
                self.optimizer.load_state_dict(state["optimizer"])
            except Exception as e:  # what a damaged file makes torch.load raise is endless
                self.model.load_state_dict(untouched[0])
                self.optimizer.load_state_dict(untouched[1])
                _log.warning("checkpoint %s cannot be used: %s", path, e)
                reasons.append(f"{path}: {e}")
                continue
            self.step, self.seconds = step, seconds
            return True
        if reasons:
            raise ConfigurationError(
                f"training cannot go on from the checkpoints in {self.out}: choose another `out`, or delete them"
                f" ({'; '.join(reasons)})"
            )
        return False

    # --- steps --------------------------------------------------------------------------------------------------------

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bfloat16)

    def train_step(self, batch: Batch) -> Losses:
        """One step of the optimiser. Raises TrainingDivergedError before the weights are touched."""
        rate = learning_rate(self.config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        # The flash kernel's backward pass is slow on a CPU.
        with self._autocast(), sdpa_kernel(SDPBackend.MATH):
            _, losses = forward(self.model, batch)
            loss = losses.total
            if math.isfinite(loss.item()):
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        if not math.isfinite(loss.item()) or not math.isfinite(norm.item()):
            raise TrainingDivergedError(
                f"the loss or its gradient is not finite at step {self.step}; {self.checkpoint} holds the last good"
                " weights: lower `learning_rate` and start again, it is resumed from there"
            )
        self.optimizer.step()
        self.step += 1
        return losses

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Mean IoU by kind of prompt on held-out images, at the masks' stride; accuracy of presence at 0.5."""
        self.model.eval()
        held_out = self._dataset(self.config.seed + 1_000_003)
        values: dict[str, list[float]] = defaultdict(list)
        for step in range(self.config.validation_batches):
            batch = held_out[step].to(self.device)
            with self._autocast(), sdpa_kernel(SDPBackend.MATH):
                output, _ = forward(self.model, batch)
            weights = region_weights(batch.boxes, *batch.masks.shape[-2:])
            ious = soft_iou(output.masks.sigmoid(), batch.masks, weights).tolist()
            right = ((output.presence > 0) == batch.present).tolist()
            for kind, iou, ok in zip(batch.kinds, ious, right, strict=True):
                if kind is PromptKind.ABSENT:
                    values["absent refused"].append(ok)
                else:
                    values[kind.value].append(iou)
                    values["present accepted"].append(ok)
        return {name: float(np.mean(v)) for name, v in sorted(values.items())}

    def _batches(self) -> Iterable[Batch]:
        """Those that are left, in order, whoever makes them."""
        return DataLoader(
            self.dataset,
            batch_size=None,
            sampler=range(self.step, self.config.steps),
            num_workers=self.config.workers,
            # A forked process would inherit torch's threads and the renderer's context.
            multiprocessing_context="spawn" if self.config.workers else None,
        )

    def run(self) -> None:
        """To the last step, with log, checkpoints and validation on the way."""
        config, started = self.config, time.monotonic() - self.seconds
        recent: dict[str, list[float]] = defaultdict(list)
        with open(self.out / "log.jsonl", "a", encoding="utf-8") as log:
            for batch in self._batches():
                losses = self.train_step(batch.to(self.device))
                for name, value in losses.to_floats().items():
                    recent[name].append(value)
                last = self.step == config.steps
                self.seconds = time.monotonic() - started
                if self.step % 50 == 0 or last:
                    record = {"step": self.step, "seconds": round(self.seconds, 1)}
                    record |= {name: round(float(np.mean(v)), 5) for name, v in recent.items()}
                    recent.clear()
                    print(json.dumps(record), file=log, flush=True)
                if self.step % config.validate_every == 0 or last:
                    record = {"step": self.step, "validation": {k: round(v, 4) for k, v in self.validate().items()}}
                    print(json.dumps(record, ensure_ascii=False), file=log, flush=True)
                    _log.info("%s", record)
                    draw_curve(self.out / "log.jsonl", self.out / "curve.png")
                if self.step % config.checkpoint_every == 0 or last:
                    self.save()


def draw_curve(log: Path, out: Path) -> None:
    """Losses and held-out figures over the steps, as a picture; needs matplotlib, and does nothing without it."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    losses = [r for r in records if "total" in r]
    for name in losses[0].keys() - {"step", "seconds"} if losses else ():
        left.plot([r["step"] for r in losses], [r[name] for r in losses], label=name)
    left.set(xlabel="step", ylabel="loss", yscale="log")
    checks = [r for r in records if "validation" in r]
    for name in checks[-1]["validation"] if checks else ():
        right.plot([r["step"] for r in checks], [r["validation"].get(name, math.nan) for r in checks], label=name)
    right.set(xlabel="step", ylabel="held-out mean IoU, or share right", ylim=(0, 1))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize=8)
    figure.savefig(out, dpi=90)


def train(config: TrainConfig) -> Path:
    """Train, or go on where `config.out` holds a checkpoint; returns the folder of the finished weights.

    Raises ConfigurationError (options, checkpoints of another model), ModelLoadError (`init`), TrainingDivergedError (a
    loss that is no number).
    """
    trainer = Trainer(config)
    if trainer.resume():
        _log.info("resumed at step %d from %s", trainer.step, trainer.checkpoint)
    trainer.run()
    weights = trainer.out / "weights"
    trainer.model.save_pretrained(weights)
    return weights
