"""Trains a small Qwen3-VL: `train(config)`, deterministic given its seed on a CPU, resumable after a kill."""

from __future__ import annotations

import dataclasses
import errno
import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors import SafetensorError
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedTokenizerFast

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.files import disk_errors
from rsvp_ros.reasoning.mllm.model_folder import find_model_folder
from rsvp_ros.segmentation.torch_runtime import choose_device
from rsvp_ros.training import config_files
from rsvp_ros.training.batches import in_order
from rsvp_ros.training.checkpoint import Checkpoints
from rsvp_ros.training.failures import TrainingDivergedError, check_finite, memory_errors
from rsvp_ros.training.mllm.chains import Part
from rsvp_ros.training.mllm.embeddings import put_in_order
from rsvp_ros.training.mllm.language import COLUMNS, ROWS, Frame, read_frames, row_hidden, rows_of
from rsvp_ros.training.mllm.lessons import LessonBatch, Lessons
from rsvp_ros.training.mllm.material import Material, gather
from rsvp_ros.training.mllm.measure import figures, measure
from rsvp_ros.training.mllm.model import MllmSize, build_model, encode_images, load_weights
from rsvp_ros.training.mllm.seeing import SeeingHeads, seeing_batch
from rsvp_ros.training.mllm.tokenizer import make_processor
from rsvp_ros.training.mllm.word_loss import WordLoss
from rsvp_ros.training.optimizer import make_optimizer, set_learning_rate
from rsvp_ros.training.processes import launched
from rsvp_ros.training.report import Report

_log = logging.getLogger(__name__)

ADAM_SHARE = 0.5
"""AdamW's learning rate, as a share of Muon's."""


@dataclass(frozen=True)
class MllmTrainConfig:
    """Everything that determines the training of the small MLLM. See docs/embedded_mllm.md."""

    out: str
    """Folder for material, checkpoints, log, curve and the finished weights."""
    train: str
    """Folder written by `rsvp tabletop export` with scenes of the split `train`."""
    held_out: str
    """… and one with scenes of the split `val`, to measure on."""
    steps: int = 5000
    """May be 0 if `init` is given: its weights are then only measured."""
    seeing_steps: int = 1000
    """The first steps, in which only the vision tower learns."""
    seed: int = 0
    seeing_images: int = 16
    """Images in a batch of these first steps."""
    images: int = 4
    """Images in a batch of the later steps."""
    rows: int = 4
    """Instructions about each image."""
    blind_rows: int = 10
    """Instructions in a batch without an image, but with the list of things given."""
    reading_rows: int = 0
    """Instructions in a batch without an image, for which only the target is taught."""
    more_images: int = 0
    """Additional images in the batches of the later steps, from which only the vision tower learns."""
    varied: bool = True
    """Whether pictures are moved and things repainted, with their answers adapted (variety.py)."""
    unknown_words: float = 0.3
    """Share of the instructions that get meaningless words, in addition to their own or in place of some."""
    chain_of_thought: bool = True
    """False: only the answer is taught, for the ablation. Then set `blind_rows`, which would see neither image nor
    list, and `reading_rows` to 0."""
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    warmup_steps: int = 100
    decay_share: float = 0.35
    """The learning rate falls to zero over the last steps, this share of those after `seeing_steps`; before that, it is
    constant."""
    clip_norm: float = 1.0
    seeing_weight: float = 0.5
    """Weight of the vision tower's own loss while the words are learned."""
    words_alone: bool = False
    """Freeze the vision tower and train only the language model; needs `init`, with `seeing_steps` and `more_images`
    set to 0."""
    checkpoint_every: int = 200
    validate_every: int = 500
    validation_views: int = 24
    vocabulary: int = 2400
    """Tokens of the tokenizer, not counting the fixed ones."""
    threads: int = 1
    workers: int = 0
    """Processes that make the batches; 0: the training process itself, which a GPU then has to wait for."""
    device: str = "auto"
    """ "auto": the GPU if there is one; or "cpu", "cuda", "cuda:1"."""
    bfloat16: bool = True
    """Mixed precision; weights are always float32."""
    init: str | None = None
    """Folder with weights to start from, whose tokenizer is kept, or "embedded"; None: from scratch. The weights do not
    include the vision tower's heads, which therefore learn alone in the first `warmup_steps` of the `seeing_steps`."""
    model: MllmSize = field(default_factory=MllmSize)

    def __post_init__(self) -> None:
        config_files.check_numbers(
            self,
            at_least_1=("images", "rows", "seeing_images", "checkpoint_every", "validate_every", "threads"),
            not_negative=(
                "seeing_steps", "blind_rows", "reading_rows", "more_images", "validation_views", "warmup_steps", "seed",
                "weight_decay", "seeing_weight", "workers",
            ),
            above_0=("learning_rate", "decay_share", "clip_norm"),
        )  # fmt: skip
        if self.steps < (0 if self.init else 1):
            raise ConfigurationError(f"training option `steps` must be at least 1 (with `init`: 0), it is {self.steps}")
        if not 0 <= self.unknown_words <= 1:
            raise ConfigurationError(f"training option `unknown_words` is a share, it is {self.unknown_words}")
        if (self.blind_rows or self.reading_rows) and not self.chain_of_thought:
            raise ConfigurationError(
                "training options `blind_rows` and `reading_rows` must be 0 without `chain_of_thought`"
            )
        if self.words_alone and (not self.init or self.seeing_steps or self.more_images):
            raise ConfigurationError(
                "training option `words_alone` needs `init`, and `seeing_steps` and `more_images` must be 0 with it"
            )

    @classmethod
    def from_file(cls, path: str | Path | None, changes: Sequence[str] = (), **given: object) -> MllmTrainConfig:
        """Read YAML; `changes` ("NAME=VALUE") take precedence over the file, and `given` over both.

        Raises ConfigurationError naming the file and what is wrong in it.
        """
        return config_files.load(cls, path, changes, given, "config/train/mllm_embedded.yaml")


def learning_rate(config: MllmTrainConfig, step: int) -> float:
    """Warm-up for the tower and again for the words, then constant, then linear decay to zero."""
    since = step if step < config.seeing_steps else step - config.seeing_steps
    warm = min(1.0, (since + 1) / max(1, config.warmup_steps))
    decay = (config.steps - step) / max(1.0, (config.steps - config.seeing_steps) * config.decay_share)
    return config.learning_rate * min(warm, decay, 1.0)


class StepBatches:
    """The batch of each step; picklable."""

    def __init__(self, lessons: Lessons, config: MllmTrainConfig) -> None:
        self.lessons, self.config = lessons, config

    def __getitem__(self, step: int) -> LessonBatch:
        c = self.config
        if step >= c.seeing_steps:
            return self.lessons.batch(step)
        rng = np.random.default_rng([c.seed, step, 1])
        return LessonBatch(*seeing_batch(self.lessons.store, rng, c.seeing_images, c.varied), ())


class Trainer:
    """Network, optimiser and their progress. Use it through `train`."""

    def __init__(self, config: MllmTrainConfig, material: Material | None = None) -> None:
        """Raises ConfigurationError, ModelLoadError (`init`)."""
        self.config = config
        self.device = choose_device(config.device)
        self.out = Path(config.out).expanduser()
        with disk_errors(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(config.threads)
        cv2.setNumThreads(config.threads)
        init = find_model_folder(config.init) if config.init else None
        self.material = material or gather(
            config.train, config.held_out, self.out / "material", config.vocabulary, init
        )
        self.tokenizer: PreTrainedTokenizerFast = self.material.tokenizer
        make_processor(self.tokenizer)  # fails now, if a package is missing, and not once the weights are written
        self.model = build_model(config.model, self.tokenizer, config.seed)
        put_in_order(self.model, self.tokenizer, config.seed)
        if init:
            load_weights(self.model, init)
        self.heads = SeeingHeads(config.model.vision_hidden, config.model.hidden).to(self.device)
        frame = Frame.of(self.model, self.tokenizer)
        self.model.to(self.device)
        self.frame = frame.to(self.device)
        self.word_loss = WordLoss(self.tokenizer, self.device)
        if config.words_alone:
            self.model.model.visual.requires_grad_(False)
            self.heads.requires_grad_(False)
        every = (*self.model.named_parameters(), *self.heads.named_parameters())
        self._learned = [(name, parameter) for name, parameter in every if parameter.requires_grad]
        self.optimizer = make_optimizer(
            self._learned, config.learning_rate, config.weight_decay, muon=config.steps > 0, others=ADAM_SHARE
        )
        self.checkpoints = Checkpoints(self.out)
        self.step = 0
        self.seconds = 0.0
        self.lessons = Lessons(
            *self.material.train,
            self.tokenizer,
            frame,
            config.seed,
            config.images,
            config.rows,
            config.blind_rows,
            config.reading_rows,
            varied=config.varied,
            unknown_words=config.unknown_words,
            seeing_images=config.more_images,
            chain_of_thought=config.chain_of_thought,
        )
        self.batches = StepBatches(self.lessons, config)
        self.held_out = Lessons(*self.material.held_out, self.tokenizer, frame, config.seed, 1, 1, 0)

    def save(self) -> None:
        """Write a checkpoint. Raises ConfigurationError if it cannot be written, and TrainingDivergedError if the
        weights are no numbers; the previous ones are then kept."""
        check_finite(self.model)
        with disk_errors(self.out):
            self.checkpoints.write(
                {
                    "model": self.model.state_dict(),
                    "heads": self.heads.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "step": self.step,
                    "seconds": self.seconds,
                    "size": dataclasses.asdict(self.config.model),
                }
            )

    def resume(self) -> bool:
        """Resume from the newest usable checkpoint; False if there are no checkpoints.

        Raises ConfigurationError if there are some but none is usable.
        """

        def accept(state: dict) -> None:
            if state["size"] != dataclasses.asdict(self.config.model):
                raise ValueError(f"it is of another `model`, {state['size']}")
            self.model.load_state_dict(state["model"])
            check_finite(self.model)
            self.heads.load_state_dict(state["heads"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds = state["step"], state["seconds"]

        return self.checkpoints.restore(accept) is not None

    def _mixed(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bfloat16)

    def _attending(self, *backends: SDPBackend) -> AbstractContextManager[None]:
        """Use these kernels, which are fast on a CPU; on a GPU, torch chooses."""
        return sdpa_kernel([*backends]) if self.device.type == "cpu" else nullcontext()

    def _see(self, batch: LessonBatch) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss and figures of a step of the vision tower alone."""
        heads_alone = self.config.init is not None and self.step < self.config.warmup_steps
        with self._mixed(), self._attending(SDPBackend.FLASH_ATTENTION):
            with torch.set_grad_enabled(not heads_alone):
                fine, merged = encode_images(self.model.model.visual, batch.patches, ROWS, COLUMNS)
            loss, right = self.heads(fine, merged, batch.truth)
        return loss, {"seeing": loss.item(), **{f"see {name}": value for name, value in right.items()}}

    def _read(self, batch: LessonBatch) -> tuple[torch.Tensor, dict[str, float]]:
        """Loss and figures of a step of the whole network."""
        language = self.model.model.language_model
        with self._mixed():
            with self._attending(SDPBackend.FLASH_ATTENTION):
                fine, merged = encode_images(self.model.model.visual, batch.patches, ROWS, COLUMNS)
            seen = None if self.config.words_alone else self.heads(fine, merged, batch.truth)
            with self._attending(SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):
                frames = read_frames(language, self.frame, merged[: self.config.images])
                hidden = [
                    row_hidden(language, self.frame, rows_of(frames, rows.owners), rows.ids, rows.blind)[rows.taught]
                    for rows in batch.rows
                ]
            scores = self.model.lm_head(torch.cat(hidden)).float()
        targets, weights, parts = (
            torch.cat([getattr(rows, name)[rows.taught] for rows in batch.rows])
            for name in ("targets", "weights", "parts")
        )
        words = (self.word_loss(scores, targets) * weights).sum() / weights.sum()
        hits = scores.argmax(-1) == targets
        loss, said = words, {"words": words.item()}
        if seen is not None:
            seeing, right = seen
            loss = words + self.config.seeing_weight * seeing
            said |= {"seeing": seeing.item()}
            said |= {f"see {name}": right[name] for name in ("kind", "color", "left", "rank") if name in right}
        blind = torch.cat([rows.blind[:, None].expand_as(rows.taught)[rows.taught] for rows in batch.rows])
        for part in (Part.TARGET, Part.LIST, Part.MEASURE, Part.FLAG, Part.WORK, Part.MEANT, Part.OBJECT):
            for name, rows in (("", ~blind), ("blind ", blind)):
                here = rows & (parts == part)
                if bool(here.any()):
                    said[f"{name}{part.name.lower()}"] = hits[here].float().mean().item()
        return loss, said

    def train_step(self, batch: LessonBatch) -> dict[str, float]:
        """One step; returns its losses and shares. Raises TrainingDivergedError before the weights are touched."""
        loss, said = self._read(batch) if batch.rows else self._see(batch)
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_([p for _, p in self._learned], self.config.clip_norm))
        if not norm < float("inf"):
            begun = f", it is resumed from {last}" if (last := self.checkpoints.last) else ""
            raise TrainingDivergedError(
                f"the gradient is no number at step {self.step}: start again with a smaller `learning_rate` than "
                f"{self.config.learning_rate:g}{begun}"
            )
        set_learning_rate(self.optimizer, learning_rate(self.config, self.step))
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        return {"total": loss.item(), "norm": norm, **said}

    def validate(self) -> dict[str, float]:
        """Figures for answers to held-out questions, with the model's own list of things and with the true one."""
        views = self.held_out.order[:: max(1, len(self.held_out.order) // max(1, self.config.validation_views))]
        found = {}
        self.model.eval()
        with self._mixed():
            for forced in (False, True) if self.config.chain_of_thought else (False,):
                judged = measure(self.model, self.tokenizer, self.held_out, views, forced)
                found |= figures(judged, "list given: " if forced else "")
        self.model.train()
        return found

    def run(self) -> None:
        """Train up to the last step, with log, checkpoints and validation."""
        config, started = self.config, time.monotonic() - self.seconds
        with Report(self.out, self.step, config.steps) as report:
            if config.steps == 0 and config.validation_views:
                report.validated(0, self.validate())
            for batch in in_order(self.batches, range(self.step, config.steps), config.workers, self.device):
                losses = self.train_step(batch)
                last = self.step == config.steps
                self.seconds = time.monotonic() - started
                report.add(self.step, self.seconds, losses)
                speaks = self.step > config.seeing_steps and config.validation_views
                if speaks and (self.step % config.validate_every == 0 or last):
                    report.validated(self.step, self.validate())
                if self.step % config.checkpoint_every == 0 or last:
                    self.save()

    def save_weights(self, folder: Path) -> None:
        """Write what `AutoProcessor` and `AutoModelForImageTextToText` load, with weights in bfloat16."""
        model = build_model(self.config.model, self.tokenizer, self.config.seed)
        model.load_state_dict(self.model.state_dict())
        with disk_errors(folder):
            try:
                model.to(torch.bfloat16).save_pretrained(folder)
            except SafetensorError as error:  # also raised when the disk is full
                raise OSError(errno.EIO, str(error)) from error
            make_processor(self.tokenizer).save_pretrained(folder)


def train(config: MllmTrainConfig) -> Path:
    """Train, resuming if `config.out` holds a checkpoint; returns the folder of the finished weights.

    Raises ConfigurationError, ModelLoadError (`init`), TrainingDivergedError, InvalidImageError (damaged data),
    ModelRunError (not enough memory).
    """
    if launched() > 1:
        raise ConfigurationError(
            "`rsvp train mllm` is of one process: start it without accelerate launch, torchrun or mpirun"
        )
    trainer = Trainer(config)
    if config.steps == 0 and trainer.checkpoints.last:
        raise ConfigurationError(
            f"{trainer.out} holds a training, which `steps` 0 would overwrite: choose another `out`"
        )
    trainer.resume()
    with memory_errors(trainer, "fewer `images`, `rows` or `more_images`"):
        trainer.run()
    weights = trainer.out / "weights"
    trainer.save_weights(weights)
    return weights
