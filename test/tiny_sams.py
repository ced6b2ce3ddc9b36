"""The SAM families small enough for a test: their real classes, random weights, saved as they are published."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from transformers import (
    CLIPTokenizer,
    EdgeTamConfig,
    EdgeTamModel,
    EdgeTamVideoConfig,
    EdgeTamVideoModel,
    Sam2Config,
    Sam2ImageProcessor,
    Sam2Model,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam3Config,
    Sam3ImageProcessor,
    Sam3LiteTextConfig,
    Sam3LiteTextModel,
    Sam3Model,
    Sam3TrackerConfig,
    Sam3TrackerModel,
    Sam3VideoConfig,
    Sam3VideoModel,
    SamConfig,
    SamHQConfig,
    SamHQModel,
    SamImageProcessor,
    SamModel,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

BOX_FAMILIES = ("sam", "sam_hq", "sam2", "sam2_video", "edgetam", "edgetam_video", "sam3_tracker")
SAM3_FAMILIES = ("sam3", "sam3_video", "sam3_lite_text")

WIDTH = 32
"""Of the decoders."""
SIDE = 128
"""Of the input image of all but SAM 3, pixels."""
SIDE3 = 112
"""Of SAM 3's, whose patches are 14 pixels wide."""

_DECODER = {"hidden_size": WIDTH, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": WIDTH}
_PROMPT = {"hidden_size": WIDTH, "image_size": SIDE, "patch_size": 16}


def build_segment_anything(side: int = SIDE) -> Sam:
    """segment_anything's own `Sam`: two blocks, one of them with windows."""
    grid = side // 16
    return Sam(
        ImageEncoderViT(
            img_size=side, patch_size=16, embed_dim=32, depth=2, num_heads=2, mlp_ratio=2.0, out_chans=WIDTH,
            qkv_bias=True, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), use_rel_pos=True,
            window_size=5, global_attn_indexes=(1,),
        ),
        PromptEncoder(WIDTH, (grid, grid), (side, side), mask_in_chans=8),
        MaskDecoder(
            num_multimask_outputs=3, transformer=TwoWayTransformer(2, WIDTH, 8, 64), transformer_dim=WIDTH,
            iou_head_hidden_dim=WIDTH,
        ),
    ).eval()  # fmt: skip


def _vit(**more: Any) -> dict[str, Any]:
    return {
        "hidden_size": 32, "output_channels": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": SIDE, "mlp_dim": 64, "window_size": 5, "global_attn_indexes": [1], "num_pos_feats": WIDTH // 2,
        **more,
    }  # fmt: skip


def _sam(config: type, model: type) -> torch.nn.Module:
    prompt = _PROMPT | {"image_embedding_size": SIDE // 16}
    decoder = _DECODER | ({"vit_dim": 32} if config is SamHQConfig else {})
    return model(config(vision_config=_vit(), prompt_encoder_config=prompt, mask_decoder_config=decoder))


def _sam2_parts() -> dict[str, Any]:
    backbone = {
        "model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1, "image_size": [SIDE, SIDE],
        "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2], "window_size_per_stage": [4, 4, 4, 4],
        "global_attention_blocks": [3],
    }  # fmt: skip
    vision = {
        "model_type": "sam2_vision_model", "backbone_config": backbone, "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]], "fpn_hidden_size": WIDTH,
    }  # fmt: skip
    return {"vision_config": vision, "prompt_encoder_config": _PROMPT, "mask_decoder_config": _DECODER}


def _edgetam_parts(vision_type: str) -> dict[str, Any]:
    backbone = {
        "model_type": "timm_wrapper", "architecture": "repvit_m1", "num_classes": 2,
        "model_args": {
            "in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3],
            "embed_dim": [8, 16, 32, 64], "depth": [1, 1, 1, 1],
        },
    }  # fmt: skip
    vision = _sam2_parts()["vision_config"] | {"model_type": vision_type, "backbone_config": backbone}
    return _sam2_parts() | {"vision_config": vision}


_VIDEO = {
    "image_size": SIDE, "memory_attention_hidden_size": WIDTH, "memory_attention_feed_forward_hidden_size": 64,
    "memory_attention_num_layers": 1, "memory_encoder_hidden_size": WIDTH, "memory_encoder_output_channels": 16,
    "mask_downsampler_embed_dim": WIDTH, "memory_fuser_embed_dim": WIDTH, "memory_fuser_intermediate_dim": 64,
}  # fmt: skip


def _sam3_vision() -> dict[str, Any]:
    backbone = {
        "model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": SIDE3, "window_size": 4, "global_attn_indexes": [1],
        "pretrain_image_size": 56,
    }  # fmt: skip
    return {
        "model_type": "sam3_vision_model", "backbone_config": backbone, "fpn_hidden_size": WIDTH,
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    }  # fmt: skip


def _sam3_parts() -> dict[str, Any]:
    small = {"hidden_size": WIDTH, "num_attention_heads": 2}
    layers = small | {"num_layers": 2, "intermediate_size": 64}
    return {
        "vision_config": _sam3_vision(),
        "text_config": {
            "model_type": "clip_text_model", "vocab_size": 514, "hidden_size": 32, "intermediate_size": 64,
            "projection_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32,
        },
        "geometry_encoder_config": layers,
        "detr_encoder_config": layers,
        "detr_decoder_config": layers | {"num_queries": 12},
        "mask_decoder_config": small,
    }  # fmt: skip


def _sam3_tracker_parts() -> dict[str, Any]:
    prompt = {"hidden_size": WIDTH, "image_size": SIDE3, "patch_size": 14}
    return {"vision_config": _sam3_vision(), "prompt_encoder_config": prompt, "mask_decoder_config": _DECODER}


def build(family: str) -> torch.nn.Module:
    """A tiny model of a `model_type` of transformers."""
    if family == "sam":
        return _sam(SamConfig, SamModel)
    if family == "sam_hq":
        return _sam(SamHQConfig, SamHQModel)
    if family == "sam2":
        return Sam2Model(Sam2Config(**_sam2_parts()))
    if family == "sam2_video":
        return Sam2VideoModel(Sam2VideoConfig(**_sam2_parts(), **_VIDEO))
    if family == "edgetam":
        return EdgeTamModel(EdgeTamConfig(**_edgetam_parts("edgetam_vision_model")))
    if family == "edgetam_video":
        return EdgeTamVideoModel(EdgeTamVideoConfig(**_edgetam_parts("edgetam_vision_model"), **_VIDEO))
    if family == "sam3":
        return Sam3Model(Sam3Config(**_sam3_parts()))
    if family == "sam3_lite_text":
        text = {"model_type": "sam3_lite_text_text_model", "vocab_size": 514, "hidden_size": 32}
        return Sam3LiteTextModel(Sam3LiteTextConfig(**(_sam3_parts() | {"text_config": text})))
    if family == "sam3_tracker":
        return Sam3TrackerModel(Sam3TrackerConfig(**_sam3_tracker_parts()))
    if family == "sam3_video":
        tracker = _sam3_tracker_parts() | _VIDEO | {"model_type": "sam3_tracker_video", "image_size": SIDE3}
        detector = _sam3_parts() | {"model_type": "sam3"}
        return Sam3VideoModel(Sam3VideoConfig(detector_config=detector, tracker_config=tracker))
    raise ValueError(family)


def image_processor(family: str) -> Any:
    """The family's processor at the tiny model's size."""
    if family in ("sam", "sam_hq"):
        return SamImageProcessor(size={"longest_edge": SIDE}, pad_size={"height": SIDE, "width": SIDE})
    if family.startswith("sam3"):
        return Sam3ImageProcessor(size={"height": SIDE3, "width": SIDE3})
    return Sam2ImageProcessor(size={"height": SIDE, "width": SIDE})


def save_tokenizer(folder: Path) -> None:
    """A CLIP tokenizer that knows the 256 bytes, alone and at a word's end, and no merges."""
    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[]).save_pretrained(folder)


def randomize(model: torch.nn.Module) -> torch.nn.Module:
    """Weights as large as training makes them, always the same: a fresh model hardly reacts to the image."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
    return model.eval()


def save(family: str, folder: Path) -> Path:
    """A folder as the hub has it."""
    model = randomize(build(family))
    model.save_pretrained(folder)
    if family == "sam3_video":  # transformers 5.23 saves "tracker_model." twice over, which the published file does not
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors")
    image_processor(family).save_pretrained(folder)
    if family in SAM3_FAMILIES:
        save_tokenizer(folder)
    return folder
