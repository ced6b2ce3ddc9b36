"""`TrainConfig`: everything that determines the training of a VLSM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.segmentation.modeling.text_path import TextPathSize
from rsvp_ros.segmentation.vlsm import Vlsm, VlsmConfig
from rsvp_ros.training import config_files
from rsvp_ros.training.dataset import Shares
from rsvp_ros.training.datasets.loading import DatasetConfig

PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class TrainConfig:
    """Trains a complete `Vlsm` or, if `backbone` names a SAM, a text path on top of it. See docs/training.md."""

    out: str
    """Folder for checkpoints, log, curve and the finished weights."""
    steps: int = 7000
    """May be 0 if `init` is given: its presence is then only recalibrated, and it is measured."""
    seed: int = 0
    images: int = 4
    """Images in a batch, per process."""
    shares: Shares = field(default_factory=Shares)
    """How much each source contributes to the images."""
    prompts: int = 5
    """Maximum number of prompts about each image."""
    questions: int = 0
    """Maximum number of further prompts about each image that ask only for presence, half of them for what is absent.
    For a `Vlsm`, which draws no masks for them, they cost little."""
    sizes: tuple[tuple[int, int], ...] = ((160, 160),) * 5 + ((240, 320),) * 3 + ((192, 320), (256, 256))
    """Height and width of the images, multiples of 16; each batch takes one. A `Vlsm` sees them at this size; for a SAM
    they are scaled to its input, as camera images are."""
    tabletop: tuple[str, ...] = ()
    """Folders written by `rsvp tabletop export` with scenes of the split `train`; if empty, scenes are rendered during
    training."""
    datasets: tuple[DatasetConfig, ...] = ()
    """The user's own annotated images; they make up the share `shares.annotated` of the images."""
    photographs: str | None = None
    """Folder of pictures that half of the textures are cut from; None: all textures are procedural."""
    cutouts: tuple[str, ...] = ()
    """Folders of PNG pictures of things on a transparent background; half of the shapes in dead leaves are then such
    cut-outs."""
    workers: int = 0
    """Processes that make the images; 0: the training process itself."""
    textures: int = 160
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    warmup_steps: int = 200
    decay_share: float = 0.6
    """The learning rate falls to zero over this last share of the steps; before that, it is constant."""
    clip_norm: float = 1.0
    checkpoint_every: int = 250
    validate_every: int = 750
    validation_batches: int = 16
    threads: int = 1
    device: str = "auto"
    """ "auto": the GPU if there is one; or "cpu", "cuda", "cuda:1"."""
    precision: str = "bfloat16"
    """Precision of the arithmetic, one of `PRECISIONS`; weights are always float32. "float16" needs a GPU and
    accelerate."""
    compile: bool = False
    """Compile the network with torch.compile."""
    init: str | None = None
    """Folder with weights to start from, or "embedded"; None: from scratch."""
    backbone: str | None = None
    """A SAM or SAM 2 for transformers, as a folder or a name on the hub; None: the network is a `Vlsm`."""
    text_path: TextPathSize = field(default_factory=TextPathSize)
    """Size of the text path on a `backbone`."""
    model: VlsmConfig = field(default_factory=VlsmConfig)
    """Size of a `Vlsm`."""

    def __post_init__(self) -> None:
        config_files.check_numbers(
            self,
            at_least_1=(
                "images", "prompts", "textures", "checkpoint_every", "validate_every", "validation_batches", "threads",
            ),
            not_negative=("questions", "seed", "workers", "warmup_steps", "weight_decay"),
            above_0=("learning_rate", "decay_share", "clip_norm"),
        )  # fmt: skip
        if self.steps < (0 if self.init else 1):
            raise ConfigurationError(f"training option `steps` must be at least 1 (with `init`: 0), it is {self.steps}")
        if not self.sizes or any(side % Vlsm.stride or side < 32 for size in self.sizes for side in size):
            raise ConfigurationError(
                f"training option `sizes` needs multiples of {Vlsm.stride} from 32, it is {self.sizes}"
            )
        if self.cutouts and sum(vars(self.shares).values()) > 1 - 1e-6:
            raise ConfigurationError(
                "training option `cutouts` is for the dead leaves, and `shares` leave none: lower some"
            )
        if self.precision not in PRECISIONS:
            raise ConfigurationError(
                f"training option `precision` is {self.precision!r}: it must be one of {', '.join(PRECISIONS)}"
            )
        if self.backbone is None and self.text_path != TextPathSize():
            raise ConfigurationError("training option `text_path` is given without a `backbone` to put it on")
        if self.backbone is not None and self.model != VlsmConfig():
            raise ConfigurationError(
                "training option `model` is the size of a VLSM, but `backbone` is given: `text_path` is its size"
            )

    @classmethod
    def from_file(cls, path: str | Path | None, changes: Sequence[str] = (), **overrides: object) -> TrainConfig:
        """Read YAML or JSON (None: the defaults only). `changes`, each "NAME=VALUE", take precedence over the file, and
        the fields in `overrides` over both.

        Raises ConfigurationError naming the file and what is wrong in it.
        """
        return config_files.load(cls, path, changes, overrides, "docs/training.md")
