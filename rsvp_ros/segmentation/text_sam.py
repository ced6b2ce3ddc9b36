"""`TextSam`: the VLSM on a pretrained SAM or SAM 2 of Hugging Face transformers.

The SAM's weights are neither changed nor copied. A description reaches its decoder through a `TextPath`, which alone is
trained and stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsvp_ros.errors import ConfigurationError, ModelLoadError
from rsvp_ros.segmentation import model_folder
from rsvp_ros.segmentation.modeling.image_encoder import take
from rsvp_ros.segmentation.modeling.prompt_encoder import coverage
from rsvp_ros.segmentation.modeling.text_encoder import TextFeatures
from rsvp_ros.segmentation.modeling.text_path import TextPath, TextPathConfig
from rsvp_ros.segmentation.sam_transform import ImageTransform
from rsvp_ros.segmentation.torch_runtime import choose_device
from rsvp_ros.segmentation.transformers_loading import read_model_type, resolve
from rsvp_ros.segmentation.transformers_sam import FAMILIES, load_sam
from rsvp_ros.segmentation.vlsm import VlsmOutput

ARCHITECTURES = ("SamModel", "Sam2Model", "EdgeTamModel")
"""The transformers classes that can take a text path."""


@dataclass(frozen=True, eq=False)
class TextSamFeatures:
    """What is computed once for each image, whatever is asked of it later."""

    embedding: Tensor
    """B x C x h x w, stride 16."""
    fine: tuple[Tensor, ...]
    """SAM 2's detail for its decoder, strides 4 and 8; empty for SAM."""
    semantic: Tensor
    """B x text_dim x 2h x 2w, stride 8: what the text is compared with, cell by cell."""
    queries: Tensor
    """B x h*w x C/2: the queries with which the image's cells attend to the words."""


class TextSam(nn.Module):
    """A frozen SAM and a text path; the same methods as `Vlsm`.

    Untrained, or without a text, it gives the same masks as the SAM alone with the same box.
    """

    mask_stride = 4
    """Width of a cell of `VlsmOutput.masks`, in pixels of the input."""
    similarity_stride = 8
    """The same for `VlsmOutput.similarity` and `TextSamFeatures.semantic`."""

    def __init__(self, sam: nn.Module, transform: ImageTransform, text_path: TextPath) -> None:
        """`sam`: one of `ARCHITECTURES`; `transform`: makes its input from images; `text_path`: one made for it."""
        super().__init__()
        self.sam = sam.requires_grad_(False)
        self.transform = transform
        self.text_path = text_path
        self.train(text_path.training)

    @classmethod
    def from_backbone(cls, backbone: str, device: str = "auto", **sizes: int) -> TextSam:
        """An untrained text path on a SAM, from a folder or the hub; `sizes`: fields of `TextPathSize`.

        Raises ModelLoadError for a model that cannot be loaded or takes no text path, ConfigurationError (device,
        sizes).
        """
        target = choose_device(device)
        sam, transform = _load_backbone(backbone, target)
        try:
            text_path = TextPath(TextPathConfig(backbone=_lasting(backbone), **_traits(sam), **sizes))
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigurationError(f"a text path of this size cannot be made: {error}") from error
        return cls(sam, transform, text_path.to(target))

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "auto", backbone: str | None = None) -> TextSam:
        """A text path that `save_pretrained` wrote, on the backbone that its config.json names; in evaluation mode.

        `backbone`: where the backbone is now, if it is elsewhere.

        Raises ModelLoadError: a missing or damaged file, a backbone that cannot be loaded or is not the one that the
        text path was trained on; ConfigurationError (device).
        """
        target = choose_device(device)
        folder = Path(folder).expanduser()
        remedy = (
            "give a folder that holds the config.json and model.safetensors of a text path; a SAM without one runs "
            "with backend transformers"
        )
        text_path = model_folder.read(folder, TextPathConfig, TextPath, "text path", remedy)
        if backbone is not None:
            text_path.config = replace(text_path.config, backbone=_lasting(backbone))
        config = text_path.config
        try:
            sam, transform = _load_backbone(config.backbone, target)
        except ModelLoadError as error:
            raise ModelLoadError(
                f"the backbone that {folder / 'config.json'} names cannot be used: {error}; "
                'if it lies elsewhere on this machine, write its folder into "backbone" there'
            ) from error
        for trait, value in _traits(sam).items():
            if value != getattr(config, trait):
                raise ModelLoadError(
                    f"the text path {folder} was trained on another model than {config.backbone}: its config.json "
                    f"says {trait} {getattr(config, trait)}, the model's is {value}: write the right model into "
                    '"backbone" there, or train a text path for this one'
                )
        return cls(sam, transform, text_path.to(target))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the text path alone: config.json, which names the backbone, and model.safetensors (float16).

        Raises ModelRunError, before anything is written, if a weight is not a number or too large for float16.
        """
        model_folder.write(folder, self.text_path.config, self.text_path)

    def train(self, mode: bool = True) -> TextSam:
        """The SAM stays in evaluation mode: SAM 2 chooses among its masks differently while it is trained."""
        super().train(mode)
        self.sam.eval()
        return self

    @property
    def reads_text(self) -> bool:
        """Whether a text can change anything: False until the text path has been trained."""
        return self.text_path.is_open

    def encode_image(self, images: Tensor) -> TextSamFeatures:
        """`images`: B x 3 x H x W, RGB from 0 to 1.

        The longest side must be the input size (SAM 2: both sides); a shorter one is padded at the right or the bottom.
        """
        mean, std = (images.new_tensor(v).view(1, 3, 1, 1) / 255 for v in (self.transform.mean, self.transform.std))
        height, width = self.transform.size
        return self.encode_pixels(
            F.pad((images - mean) / std, (0, width - images.shape[-1], 0, height - images.shape[-2]))
        )

    def encode_pixels(self, pixels: Tensor) -> TextSamFeatures:
        """`pixels`: B x 3 x side x side, as `transform` makes them."""
        weight = next(self.sam.vision_encoder.parameters())
        levels = self.sam.get_image_embeddings(pixels.to(weight.dtype))
        *fine, embedding = [levels] if isinstance(levels, Tensor) else levels
        return self.prepare(embedding, fine)

    def prepare(self, embedding: Tensor, fine: Sequence[Tensor]) -> TextSamFeatures:
        """What the SAM computed from images, and what the text path makes of it."""
        path, position = self.text_path, self.sam.get_image_wide_positional_embeddings()
        return TextSamFeatures(
            embedding=embedding,
            fine=tuple(fine),
            semantic=path.semantic_head(embedding, fine),
            queries=path.image_attention.queries(_to_tokens(embedding), _to_tokens(position)),
        )

    def encode_text(self, texts: Sequence[str]) -> TextFeatures:
        """Descriptions in any language; an empty one stands for whatever the box shows."""
        return self.text_path.text_encoder(texts)

    def decode(
        self, features: TextSamFeatures, text: TextFeatures, boxes: Tensor, image_index: Tensor | None = None
    ) -> VlsmOutput:
        """All prompts in one batch; masks at `mask_stride`, similarity at stride 8 of the input, padding included.

        `boxes`: P x 4, pixels of the network's input; `image_index`: P, which image a prompt is about (default: the
        first); `text`: of P descriptions.
        """
        if image_index is None:
            image_index = boxes.new_zeros(boxes.shape[0], dtype=torch.long)
        embedding, semantic, queries, *fine = (
            take(t, image_index) for t in (features.embedding, features.semantic, features.queries, *features.fine)
        )
        path, encoder = self.text_path, self.sam.prompt_encoder
        similarity = path.comparison.similarity(semantic, text)
        inside = coverage(boxes, *similarity.shape[-2:], self.transform.size[0] // similarity.shape[-2])

        corners, dense = encoder(
            input_points=None, input_labels=None, input_boxes=boxes[:, None].contiguous(), input_masks=None
        )
        corners = corners[:, 0]
        corners = path.box_attention(corners, path.box_attention.queries(corners, 0.0), text)[:, None]
        masked = encoder.mask_embed(path.mask_prompt(similarity, inside))
        dense = dense.lerp(masked.to(dense.dtype), path.mask_gate(text)[:, None, None, None])
        image = path.image_attention(_to_tokens(embedding), queries, text)
        image = image.transpose(1, 2).unflatten(2, embedding.shape[-2:])
        masks, quality, *_ = self.sam.mask_decoder(
            image_embeddings=image,
            image_positional_embeddings=self.sam.get_image_wide_positional_embeddings().expand_as(image),
            sparse_prompt_embeddings=corners,
            dense_prompt_embeddings=dense,
            multimask_output=False,
            **({"high_resolution_features": fine} if fine else {}),
        )
        return VlsmOutput(
            masks=masks[:, 0, 0].float(),
            quality=quality[:, 0, 0].float().logit(eps=1e-6),
            presence=path.presence(semantic, similarity, inside, text).float(),
            similarity=similarity,
        )

    def forward(
        self, images: Tensor, texts: Sequence[str], boxes: Tensor, image_index: Tensor | None = None
    ) -> VlsmOutput:
        """Images to answers in one go; see `encode_image`, `encode_text` and `decode`."""
        return self.decode(self.encode_image(images), self.encode_text(texts), boxes, image_index)


def _load_backbone(model: str, device: torch.device) -> tuple[nn.Module, ImageTransform]:
    model_type = read_model_type(resolve(model))
    supported = [t for t, family in FAMILIES.items() if family.model in ARCHITECTURES]
    if model_type not in supported:
        raise ModelLoadError(
            f"{model} is a model of type '{model_type}', which takes no text path: supported are {', '.join(supported)}"
        )
    return load_sam(model, model_type, device)


def _lasting(backbone: str) -> str:
    """The backbone's name; a local folder's is made absolute, so that it holds in any working directory."""
    folder = Path(backbone).expanduser()
    return str(folder.resolve()) if folder.is_dir() else backbone


def _traits(sam: nn.Module) -> dict[str, str | int]:
    """What distinguishes a backbone from others, as fields of `TextPathConfig`."""
    decoder = sam.mask_decoder
    return {
        "architecture": type(sam).__name__,
        "image_size": sam.config.prompt_encoder_config.image_size,
        "parameters": sum(parameter.numel() for parameter in sam.parameters()),
        "width": decoder.hidden_size,
        "fine_width": decoder.conv_s1.out_channels if hasattr(decoder, "conv_s1") else 0,
    }


def _to_tokens(maps: Tensor) -> Tensor:
    """B x C x h x w to B x h*w x C."""
    return maps.flatten(2).transpose(1, 2)
