"""The trainable networks as the trainer sees them: a batch in, answers and losses out."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.segmentation.modeling.comparison import Comparison
from rsvp_ros.segmentation.modeling.region import sample_regions, sampling_weights
from rsvp_ros.segmentation.modeling.text_encoder import TextFeatures
from rsvp_ros.segmentation.modeling.text_path import Gate
from rsvp_ros.segmentation.vlsm import Vlsm, VlsmConfig, VlsmOutput
from rsvp_ros.training.config import TrainConfig
from rsvp_ros.training.dataset import CELL, Batch
from rsvp_ros.training.deepening import deepened
from rsvp_ros.training.losses import Losses, compute_losses
from rsvp_ros.training.namings import NAMES

if TYPE_CHECKING:
    from rsvp_ros.segmentation.text_sam import TextSam


class Learner(nn.Module, ABC):
    """A network together with the losses of its answers."""

    model: Vlsm | TextSam
    grid: int
    """Cells on each side of the regions on which its masks are judged."""
    muon = False
    """Whether its matrices are trained with Muon."""

    @property
    @abstractmethod
    def trained(self) -> nn.Module:
        """The part that is optimised and stored; it has a `config`."""

    @property
    def hasty(self) -> list[nn.Parameter]:
        """Parameters that get a higher learning rate."""
        return []

    @property
    def presence_bias(self) -> nn.Parameter | None:
        """Bias of the presence logit; None if presence must not be shifted."""
        return None

    @property
    @abstractmethod
    def compilable(self) -> tuple[nn.Module, ...]:
        """Parts that torch.compile can compile as a whole; what surrounds them handles text in plain Python."""

    @abstractmethod
    def answer(self, batch: Batch) -> tuple[VlsmOutput, Tensor, Tensor]:
        """Answers laid out like the truth in `Batch` (masks over its regions, similarity in its cells); logits of the
        vocabulary and of "none of it", B x (V + 1) x cells; and of the names, N x NAMES."""

    def forward(self, batch: Batch) -> tuple[VlsmOutput, Losses]:
        output, grounding, naming = self.answer(batch)
        return output, compute_losses(output, batch, grounding, naming)


def make_learner(config: TrainConfig, device: torch.device) -> Learner:
    """The network that a configuration describes, on the device.

    Raises ConfigurationError (sizes that are impossible or differ from those of `init`), ModelLoadError (`init`,
    `backbone`).
    """
    if config.backbone is None:
        model = _loaded(config.init, config.model) if config.init else Vlsm(config.model)
        return VlsmLearner(model.to(device, memory_format=torch.channels_last))
    from rsvp_ros.segmentation.text_sam import TextSam  # needs transformers, which a `Vlsm` does not

    if config.init:
        model = TextSam.from_pretrained(config.init, str(device), config.backbone)
        _check_size("text_path", config.text_path, model.text_path.config)
        return TextSamLearner(model)
    sizes = dataclasses.asdict(config.text_path)
    return TextSamLearner(TextSam.from_backbone(config.backbone, str(device), **sizes))


def _loaded(init: str, size: VlsmConfig) -> Vlsm:
    """Weights to start from; where `size` is given, `image_layers` missing in them are added and at first pass on their
    input unchanged."""
    model = Vlsm.from_pretrained(init)
    if size != VlsmConfig() and size.image_layers > model.config.image_layers:
        model.image_encoder.layers = deepened(
            model.image_encoder.layers, size.image_layers, lambda layer: (layer.attention.out, layer.mlp[-1])
        )
        model.config = dataclasses.replace(model.config, image_layers=size.image_layers)
    _check_size("model", size, model.config)
    return model


def _check_size(option: str, wanted: Any, of_weights: Any) -> None:
    """Raises ConfigurationError if an option asks for a non-default size that the weights do not have."""
    others = {name: getattr(of_weights, name) for name, v in vars(wanted).items() if getattr(of_weights, name) != v}
    if others and wanted != type(wanted)():
        told = ", ".join(f"{name} {getattr(wanted, name)} for {value}" for name, value in others.items())
        raise ConfigurationError(
            f"training option `{option}` is another size than that of the weights of `init` ({told}): leave it out, or "
            "start without `init`"
        )


class VlsmLearner(Learner):
    """A complete `Vlsm`."""

    muon = True

    def __init__(self, model: Vlsm) -> None:
        super().__init__()
        self.model = model
        self.grid = model.config.grid

    @property
    def trained(self) -> Vlsm:
        return self.model

    @property
    def presence_bias(self) -> nn.Parameter:
        return self.model.presence_head[-1].bias

    @property
    def compilable(self) -> tuple[nn.Module, ...]:
        return self.model.image_encoder, *self.model.blocks, self.model.mask_decoder

    def answer(self, batch: Batch) -> tuple[VlsmOutput, Tensor, Tensor]:
        model = self.model
        features = model.encode_image(_unit(batch.images).to(memory_format=torch.channels_last))
        text, vocabulary, names = _encode_texts(model, batch)
        pixels = _unit(batch.pixels).to(memory_format=torch.channels_last)
        output = model.decode(features, text, batch.boxes, batch.regions, pixels, batch.image_index)
        return output, *_compared(model.comparison, features.semantic, vocabulary, names, batch)


class TextSamLearner(Learner):
    """The text path on a frozen SAM. Muon has not been tried for it."""

    grid = 128

    def __init__(self, model: TextSam) -> None:
        super().__init__()
        self.model = model

    @property
    def trained(self) -> nn.Module:
        return self.model.text_path

    @property
    def hasty(self) -> list[nn.Parameter]:
        """The gates: single numbers that start at zero and have far to go; what lies behind them learns little until
        they open."""
        return [module.value for module in self.model.text_path.modules() if isinstance(module, Gate)]

    @property
    def compilable(self) -> tuple[nn.Module, ...]:
        return (self.model.sam.vision_encoder,)

    def answer(self, batch: Batch) -> tuple[VlsmOutput, Tensor, Tensor]:
        model, (height, width) = self.model, batch.images.shape[-2:]
        seen = model.transform.resized((height, width))
        images = _unit(batch.images)
        if seen != (height, width):
            images = F.interpolate(images, seen, mode="bilinear", align_corners=False, antialias=True)
        scale = batch.boxes.new_tensor((seen[1] / width, seen[0] / height) * 2)
        features = model.encode_image(images)
        text, vocabulary, names = _encode_texts(model, batch)
        output = model.decode(features, text, batch.boxes * scale, batch.image_index)
        # In full precision: half precision would round the interpolated masks.
        with torch.autocast(images.device.type, enabled=False):
            each = torch.arange(len(batch.regions), device=images.device)
            cells = (height // CELL, width // CELL)
            regions, masks = batch.regions * scale, output.masks[: len(each), None]
            masks = sample_regions(masks, regions, each, self.grid, model.mask_stride)
            similarity = _in_cells(output.similarity, seen, cells, model.similarity_stride)
            semantic = _in_cells(features.semantic.float(), seen, cells, model.similarity_stride)
        output = dataclasses.replace(output, masks=masks[:, 0], similarity=similarity)
        return output, *_compared(model.text_path.comparison, semantic, vocabulary, names, batch)


def _unit(images: Tensor) -> Tensor:
    """uint8 to floats from 0 to 1."""
    return images.float() / 255


def _encode_texts(model: Vlsm | TextSam, batch: Batch) -> tuple[TextFeatures, TextFeatures, TextFeatures]:
    """Features of the prompts' texts, of the vocabulary's and of the names."""
    text = model.encode_text(batch.texts + batch.vocabulary + batch.names)
    counts = [len(batch.texts), len(batch.vocabulary), len(batch.names)]
    parts = {name: t.split(counts) for name, t in vars(text).items()}
    prompts, vocabulary, names = (TextFeatures(**{name: t[i] for name, t in parts.items()}) for i in range(3))
    return prompts, vocabulary, names


def _compared(
    comparison: Comparison, semantic: Tensor, vocabulary: TextFeatures, names: TextFeatures, batch: Batch
) -> tuple[Tensor, Tensor]:
    """Logits of the vocabulary in every cell, and of the names in the cells that have some."""
    index, row, column = batch.named.T
    cells = semantic[index, :, row, column].repeat_interleave(NAMES, 0)
    naming = comparison.similarity(cells[..., None, None], names)
    return comparison.grounding(semantic, vocabulary), naming.reshape(-1, NAMES)


def _in_cells(maps: Tensor, extent: tuple[int, int], cells: tuple[int, int], stride: int) -> Tensor:
    """Maps of a SAM's padded input, ... x h x w, resampled to maps of the image alone, ... x `cells`.

    `extent`: height and width that the image takes up in the input, pixels; `stride`: size of a cell of the maps,
    pixels.
    """
    down, across = (
        sampling_weights(maps.new_zeros(1), maps.new_full((1,), float(end)), count, size, stride)[0]
        for end, count, size in zip(extent, cells, maps.shape[-2:], strict=True)
    )
    return down @ maps @ across.T
