"""The original `segment_anything` package (Kirillov et al., 2023) as a segmenter: box in, mask out."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from rsvp_ros.errors import ModelLoadError
from rsvp_ros.segmentation.box_segmenter import BoxSegmenter
from rsvp_ros.segmentation.sam_transform import ImageTransform
from rsvp_ros.segmentation.torch_runtime import choose_device, choose_dtype, move_to_device, set_encoder_dtype

_CHECKPOINTS = "https://github.com/facebookresearch/segment-anything#model-checkpoints"


class SegmentAnythingSegmenter(BoxSegmenter):
    """A `Sam` module, used as `SamPredictor` uses it, with all boxes of a frame in one batch."""

    def __init__(self, sam: Sam, name: str = "segment_anything", *, device: str = "auto", dtype: str = "auto") -> None:
        target = choose_device(device)
        self.sam = move_to_device(sam, name, target)
        self._dtype = choose_dtype(dtype, target)
        self.image_encoder = sam.image_encoder
        set_encoder_dtype(self.image_encoder, self._dtype)
        side = sam.image_encoder.img_size
        mean, std = (tuple(values.flatten().tolist()) for values in (sam.pixel_mean, sam.pixel_std))
        super().__init__(name, ImageTransform((side, side), True, mean, std), target)

    @classmethod
    def from_checkpoint(cls, checkpoint: str, *, device: str = "auto", dtype: str = "auto") -> SegmentAnythingSegmenter:
        """Load a checkpoint file (`sam_vit_b_01ec64.pth`, `sam_vit_l_…`, `sam_vit_h_…`, or one fine-tuned from them).

        Raises ModelLoadError where the file is missing, broken or not of this architecture.
        """
        path = Path(checkpoint).expanduser()
        return cls(build_sam(_read(path), str(path)), f"segment_anything {path.name}", device=device, dtype=dtype)

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.sam.image_encoder(pixels.to(self._dtype))

    def _decode(self, embeddings: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sparse, dense = self.sam.prompt_encoder(points=None, boxes=boxes, masks=None)
        logits, quality = self.sam.mask_decoder(
            image_embeddings=embeddings,
            image_pe=self.sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,  # a box is not ambiguous
        )
        return logits[:, 0], quality[:, 0]


def _read(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise ModelLoadError(f"{path} is not a file: download a SAM checkpoint (.pth) from {_CHECKPOINTS}")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    # A broken file makes torch and pickle raise nearly anything.
    except Exception as error:
        raise ModelLoadError(
            f"{path} cannot be read as a PyTorch checkpoint ({error}): download it again from {_CHECKPOINTS}"
        ) from error
    if not isinstance(weights, dict):
        raise ModelLoadError(f"{path} holds a {type(weights).__name__}, not weights: {_CHECKPOINTS}")
    return weights


def build_sam(weights: dict[str, torch.Tensor], source: str) -> Sam:
    """The `Sam` that these weights belong to; its dimensions are read from their shapes.

    So nobody has to say `vit_b`, `vit_l` or `vit_h`, and fine-tuned models of other input sizes load too.
    Raises ModelLoadError for weights of something else.
    """
    try:
        pos_embed = weights["image_encoder.pos_embed"]  # 1 x grid x grid x width
        patch = weights["image_encoder.patch_embed.proj.weight"].shape[-1]
        out_channels = weights["image_encoder.neck.0.weight"].shape[0]
        mlp = weights["image_encoder.blocks.0.mlp.lin1.weight"].shape[0]
        mask_channels = weights["prompt_encoder.mask_downscaling.3.weight"].shape[0]
        decoder_mlp = weights["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0]
        mask_tokens = weights["mask_decoder.mask_tokens.weight"].shape[0]
        iou_hidden = weights["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0]
        # One table of relative positions per block, 2 * side - 1 long, where side is the window's or the whole grid's.
        tables = []
        while (key := f"image_encoder.blocks.{len(tables)}.attn.rel_pos_h") in weights:
            tables.append(weights[key].shape)
        head_width = tables[0][1]
    except (KeyError, IndexError, AttributeError) as error:
        raise ModelLoadError(f"{source} holds no weights of a segment_anything model: {_hint(weights)}") from error
    grid, width = pos_embed.shape[1], pos_embed.shape[3]
    sides = [(length + 1) // 2 for length, _ in tables]
    windows = [side for side in sides if side != grid]
    sam = Sam(
        image_encoder=ImageEncoderViT(
            img_size=grid * patch,
            patch_size=patch,
            embed_dim=width,
            depth=len(tables),
            num_heads=width // head_width,
            mlp_ratio=mlp / width,
            out_chans=out_channels,
            qkv_bias=True,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=windows[0] if windows else 0,
            global_attn_indexes=[i for i, side in enumerate(sides) if side == grid],
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=out_channels,
            image_embedding_size=(grid, grid),
            input_image_size=(grid * patch, grid * patch),
            mask_in_chans=mask_channels,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=mask_tokens - 1,
            transformer=TwoWayTransformer(depth=2, embedding_dim=out_channels, mlp_dim=decoder_mlp, num_heads=8),
            transformer_dim=out_channels,
            iou_head_depth=3,
            iou_head_hidden_dim=iou_hidden,
        ),
    )
    try:
        sam.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelLoadError(f"{source} does not fit segment_anything's Sam: {_hint(weights)} ({error})") from error
    return sam


def _hint(weights: dict) -> str:
    """What to do with weights that do not fit, such as a related model's."""
    if "mask_decoder.hf_token.weight" in weights:
        return "it is SAM-HQ's, use backend transformers with syscv-community/sam-hq-vit-base"
    if "model" in weights:
        return "it looks like SAM 2's, use backend transformers with facebook/sam2.1-hiera-tiny"
    if any(key.startswith("image_encoder.patch_embed.seq") for key in weights):
        return "it is MobileSAM's, which is not supported, use backend transformers with yonigozlan/EdgeTAM-hf"
    return f"download one of {_CHECKPOINTS}"
