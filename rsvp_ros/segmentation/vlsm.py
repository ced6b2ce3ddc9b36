"""`Vlsm`: the vision-language segmentation module, stage 2 of RSVP (sec. 3.3), as one small network.

It takes an image and, for each target, a region and a description, and gives a mask, its quality and the presence of
what is described. The paper crops the image to the region and hands the crop to a large pretrained model; here the
region is a prior inside the network, so that an image is encoded once for all its targets, and only the mask decoder
looks at the region's own pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsvp_ros.segmentation import model_folder
from rsvp_ros.segmentation.modeling.common import Mlp, grid_centers, sine_encoding
from rsvp_ros.segmentation.modeling.comparison import Comparison
from rsvp_ros.segmentation.modeling.image_encoder import ImageEncoder, ImageFeatures, take
from rsvp_ros.segmentation.modeling.mask_decoder import MaskDecoder
from rsvp_ros.segmentation.modeling.prompt_encoder import PromptEncoder
from rsvp_ros.segmentation.modeling.text_encoder import TextEncoder, TextFeatures
from rsvp_ros.segmentation.modeling.two_way import TwoWayBlock

EMBEDDED = Path(__file__).parent / "weights" / "vlsm_embedded"
"""The weights that the package ships; their model card is the README.md beside them."""


@dataclass(frozen=True)
class VlsmConfig:
    """The network's size. All of it is stored beside the weights in config.json."""

    dim: int = 160
    """Width of image and prompt tokens."""
    heads: int = 5
    image_layers: int = 6
    """ViT layers at stride 16."""
    stem: tuple[int, int, int] = (32, 64, 96)
    """Channels at strides 2, 4 and 8."""
    stem_blocks: int = 4
    """Convolutional blocks at stride 8."""
    two_way_layers: int = 2
    grid: int = 64
    """Cells along each side of the region that a mask is drawn in; a multiple of 4."""
    mask_widths: tuple[int, int, int] = (24, 48, 96)
    """Channels of the mask decoder on the whole, half and quarter grid."""
    fine_blocks: int = 2
    """Convolutional blocks of the mask decoder on the whole grid."""
    text_layers: int = 1
    text_dim: int = 96
    """Width of the space where text and image are compared."""
    text_buckets: int = 4096
    """Rows of the table that word pieces are hashed into."""
    piece_dim: int = 64
    max_words: int = 16
    """Words of a description that are read."""

    def __post_init__(self) -> None:
        """Raises ValueError for sizes that do not fit together."""
        for name, value in vars(self).items():
            least = 0 if name.endswith(("layers", "blocks")) else 1
            numbers = value if isinstance(value, tuple) else (value,)
            if not all(isinstance(n, int) and n >= least for n in numbers):
                raise ValueError(f"`{name}` is {value}: it takes whole numbers from {least} on")
        if self.dim % (2 * self.heads) or self.dim % 4:
            raise ValueError(f"`dim` is {self.dim}: it must be a multiple of 4 and of twice the {self.heads} `heads`")
        if self.grid % 4:
            raise ValueError(f"`grid` is {self.grid}: it must be a multiple of 4")


@dataclass(frozen=True, eq=False)
class VlsmOutput:
    """The network's answers for P prompts, as logits."""

    masks: Tensor
    """M x grid x grid: over the prompts' regions."""
    quality: Tensor
    """P: estimated IoU of the mask with the ground truth."""
    presence: Tensor
    """P: whether what the text describes is in the region."""
    similarity: Tensor
    """P x H/8 x W/8: text against image, cell by cell; 0 without a text."""


class Vlsm(nn.Module):
    """Image encoder, text encoder, region prior, two-way blocks, mask decoder, heads for quality and presence."""

    stride = 16
    """The sides of the input must be multiples of this."""

    def __init__(self, config: VlsmConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or VlsmConfig()
        dim = config.dim
        self.image_encoder = ImageEncoder(
            config.stem, config.stem_blocks, dim, config.image_layers, config.heads, config.text_dim
        )
        self.text_encoder = TextEncoder(
            config.text_buckets, config.piece_dim, dim, config.text_layers, config.heads, config.text_dim,
            config.max_words,
        )  # fmt: skip
        self.prompt_encoder = PromptEncoder(dim)
        self.comparison = Comparison(config.text_dim)
        self.output_tokens = nn.Parameter(torch.randn(3, dim) * 0.5)
        self.text_type = nn.Parameter(torch.randn(dim) * 0.02)
        self.no_text = nn.Parameter(torch.randn(dim) * 0.02)
        self.dense16 = nn.Linear(PromptEncoder.maps, dim)
        self.blocks = nn.ModuleList(TwoWayBlock(dim, config.heads) for _ in range(config.two_way_layers))
        self.mask_decoder = MaskDecoder(dim, config.stem, config.mask_widths, config.fine_blocks, PromptEncoder.maps)
        self.quality_head = Mlp(dim, dim, 1)
        self.presence_head = Mlp(dim + Comparison.evidence_width(config.text_dim), dim, 1)

    def encode_image(self, images: Tensor) -> ImageFeatures:
        """`images`: B x 3 x H x W, RGB from 0 to 1, sides multiples of 16."""
        return self.image_encoder(images)

    def encode_text(self, texts: Sequence[str]) -> TextFeatures:
        """Descriptions in any language; an empty one stands for whatever the box shows."""
        return self.text_encoder(texts)

    def decode(
        self,
        features: ImageFeatures,
        text: TextFeatures,
        boxes: Tensor,
        regions: Tensor,
        pixels: Tensor,
        image_index: Tensor | None = None,
    ) -> VlsmOutput:
        """All prompts in one batch.

        `boxes`: P x 4, pixels of the network's input; `text`: of P descriptions; `regions`: M x 4, where the masks of
        the first M prompts are drawn (in training, some are asked only for presence); `pixels`: M x 3 x grid x grid,
        what the image shows there, RGB from 0 to 1; `image_index`: P, which image a prompt is about (default: the
        first).
        """
        if image_index is None:
            image_index = boxes.new_zeros(boxes.shape[0], dtype=torch.long)
        height, width = (side // 2 for side in features.stride8.shape[-2:])
        semantic = take(features.semantic, image_index)
        similarity = self.comparison.similarity(semantic, text)
        dense8 = self.prompt_encoder.dense(boxes, similarity, 8)
        dense16 = F.avg_pool2d(dense8, 2)
        image = take(features.tokens, image_index)
        image = image + self.dense16(dense16.flatten(2).transpose(1, 2).to(image.dtype))
        image_position = sine_encoding(grid_centers(height, width, 16, boxes.device), self.config.dim)
        image_position = image_position.flatten(0, 1).to(image.dtype)

        tokens, token_bias = self._prompt_tokens(text, boxes)
        token_position = tokens
        prior = (dense16[:, 0].flatten(1), dense16[:, 1].flatten(1))
        for block in self.blocks:
            tokens, image = block(tokens, image, token_position, image_position, token_bias, prior)

        image = image.transpose(1, 2).unflatten(2, (height, width))
        drawn = slice(len(regions))
        masks = self.mask_decoder(
            pixels, regions, image_index[drawn], features, image[drawn], dense8[drawn], tokens[drawn, 0]
        )
        evidence = self.comparison.evidence(semantic, similarity, dense8[:, 0], text)
        return VlsmOutput(
            masks=masks.float(),
            quality=self.quality_head(tokens[:, 1]).squeeze(-1).float(),
            presence=self.presence_head(torch.cat((tokens[:, 2], evidence), 1)).squeeze(-1).float(),
            similarity=similarity,
        )

    def _prompt_tokens(self, text: TextFeatures, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens P x N x dim, for mask, quality and presence, two corners and the words; and a bias that hides padding.

        A prompt without words has one token that says so.
        """
        count, length = text.valid.shape
        outputs = self.output_tokens.expand(count, -1, -1)
        corners = self.prompt_encoder.tokens(boxes)
        words = torch.where(text.given[:, None, None], text.tokens + self.text_type, self.no_text)
        is_first = torch.arange(length, device=boxes.device) == 0
        words_shown = text.valid | (is_first & ~text.given[:, None])
        others_shown = words_shown.new_ones(count, outputs.shape[1] + corners.shape[1])
        shown = torch.cat((others_shown, words_shown), 1)
        return torch.cat((outputs, corners, words), 1), torch.where(shown, 0.0, -1e4)[:, None, None]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors (float16), each whole or not at all.

        Raises ModelRunError, before anything is written, if a weight is not a number or too large for float16.
        """
        model_folder.write(folder, self.config, self)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Vlsm:
        """Read what `save_pretrained` wrote, float32 on the CPU, in evaluation mode.

        `folder`: "embedded" for the weights in the package. Raises a ModelLoadError that names the file and a remedy.
        """
        remedy = (
            'give a folder that holds the config.json and model.safetensors of a VLSM, or "embedded" for the one in '
            "the package"
        )
        path = EMBEDDED if str(folder) == "embedded" else Path(folder).expanduser()
        return model_folder.read(path, _stored_config, cls, "VLSM", remedy)


def _stored_config(**values: Any) -> VlsmConfig:
    """A stored configuration; one from before there were fine blocks does not mention them."""
    return VlsmConfig(**{"fine_blocks": 0} | values)
