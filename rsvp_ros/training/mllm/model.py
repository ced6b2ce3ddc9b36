"""A Qwen3-VL small enough to be trained here: its sizes, its configuration and its initial weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from rsvp_ros.errors import ConfigurationError, ModelLoadError
from rsvp_ros.training.deepening import deepened

PATCH = 16
"""Side of the square that one token of the vision tower sees, pixels."""
MERGE = 2
"""Side of the square that becomes one token of the language model, patches."""
VISION_THETA = 100.0
"""Base of the vision tower's rotary positions: an image has some twenty patches on a side, not thousands."""


@dataclass(frozen=True)
class MllmSize:
    """The network's size. Raises ConfigurationError for sizes that do not fit together."""

    vision_hidden: int = 192
    vision_layers: int = 16
    vision_heads: int = 4
    vision_intermediate: int = 512
    hidden: int = 256
    layers: int = 6
    heads: int = 8
    key_value_heads: int = 4
    intermediate: int = 512

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int) or value < 1:
                raise ConfigurationError(f"model option `{name}` must be a whole number from 1 on, it is {value!r}")
        for what, width, heads in (
            ("vision_hidden", self.vision_hidden, self.vision_heads),
            ("hidden", self.hidden, self.heads),
        ):
            if width % heads or width // heads % 8:
                raise ConfigurationError(
                    f"model option `{what}` is {width}: a head's share of it must be a multiple of 8, with {heads} "
                    "heads it is not"
                )
        if self.heads % self.key_value_heads:
            raise ConfigurationError(
                f"model option `key_value_heads` is {self.key_value_heads}: it must divide heads, {self.heads}"
            )


def make_config(size: MllmSize, tokenizer: PreTrainedTokenizerFast) -> Qwen3VLConfig:
    """What transformers builds the network from."""
    head = size.hidden // size.heads
    spatial = head // 8  # of half the head, a quarter each for row and column, the rest for the position in the text
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_interleaved": True}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.key_value_heads,
        "head_dim": head,
        "max_position_embeddings": 8192,
        "pad_token_id": tokenizer.pad_token_id,
        "rope_parameters": {**rope, "mrope_section": [head // 2 - 2 * spatial, spatial, spatial]},
    }
    vision = {
        "depth": size.vision_layers,
        "hidden_size": size.vision_hidden,
        "intermediate_size": size.vision_intermediate,
        "num_heads": size.vision_heads,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 1,
        "out_hidden_size": size.hidden,
        "num_position_embeddings": 256,
        "deepstack_visual_indexes": [],
        "rope_parameters": {"rope_type": "axial", "rope_theta": VISION_THETA},
    }
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in (("image", "image_pad"), ("video", "video_pad"),
                            ("vision_start", "vision_start"), ("vision_end", "vision_end"))
    }  # fmt: skip
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)


def build_model(size: MllmSize, tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3VLForConditionalGeneration:
    """A network with weights that are determined by `seed`."""
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(make_config(size, tokenizer))
    look_around(model.model.visual)
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def load_weights(model: Qwen3VLForConditionalGeneration, folder: Path) -> None:
    """Load the weights that a training wrote into `folder`. Words it did not know keep their vectors here, scaled to
    the spread of its own; layers that it lacks at first pass on their input unchanged. Raises ModelLoadError."""
    try:
        config = AutoConfig.from_pretrained(folder)
        if not isinstance(config, Qwen3VLConfig):
            raise ValueError(f"its type is {config.model_type}")
        _check_sizes(folder, config, model.config)
        start = Qwen3VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        start.model.visual.blocks = deepened(
            start.model.visual.blocks,
            len(model.model.visual.blocks),
            lambda block: (block.attn.proj, block.mlp.linear_fc2),
        )
        start.model.language_model.layers = deepened(
            start.model.language_model.layers,
            len(model.model.language_model.layers),
            lambda layer: (layer.self_attn.o_proj, layer.mlp.down_proj),
        )
        known = start.get_input_embeddings().weight
        new = model.get_input_embeddings().weight.detach()[len(known) :]
        table = torch.cat((known, new * (known.std() / new.std()) if len(new) else new))
        start.set_input_embeddings(torch.nn.Embedding.from_pretrained(table, freeze=False))
        start.tie_weights()
        model.load_state_dict(start.state_dict())
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).partition("\n")[0].rstrip(".:")
        raise ModelLoadError(
            f"{folder} holds no weights as `rsvp train mllm` writes them ({reason}): copy it again, or choose another "
            "`init`"
        ) from error


def _check_sizes(folder: Path, given: Qwen3VLConfig, wanted: Qwen3VLConfig) -> None:
    """Raises ModelLoadError unless weights have the wanted size, or one with fewer layers or words.

    The tensors alone do not tell this: another number of heads does not change their shapes.
    """
    sizes, asked = _sizes(given), _sizes(wanted)
    differing = [
        f"`model.{name}` {size}, not {asked[name]}"
        for name, size in sizes.items()
        if (size > asked[name] if name in ("vision_layers", "layers") else size != asked[name])
    ]
    if differing:
        raise ModelLoadError(
            f"{folder} holds weights of another size: {', '.join(differing)}: set these to what it has, or choose "
            "another `init`"
        )
    known, words = given.text_config.vocab_size, wanted.text_config.vocab_size
    if known > words:
        raise ModelLoadError(
            f"{folder} holds weights of a vocabulary of {known}, its tokenizer has {words}: take both from the same "
            "training, or choose another `init`"
        )


def _sizes(config: Qwen3VLConfig) -> dict[str, int]:
    """The options of MllmSize that `config` was made from."""
    vision, text = config.vision_config, config.text_config
    return {
        "vision_hidden": vision.hidden_size,
        "vision_layers": vision.depth,
        "vision_heads": vision.num_heads,
        "vision_intermediate": vision.intermediate_size,
        "hidden": text.hidden_size,
        "layers": text.num_hidden_layers,
        "heads": text.num_attention_heads,
        "key_value_heads": text.num_key_value_heads,
        "intermediate": text.intermediate_size,
    }


@torch.no_grad()
def look_around(vision: Qwen3VLVisionModel, strength: float = 4.0) -> None:
    """Let most heads of each layer start by looking at one neighbour of a patch, as a convolution does.

    The biases of queries and keys, rotated by the rotary positions, give a logit that depends only on the offset
    between two patches; it is largest at the offset by which the query's bias is rotated back. From small random
    weights, a tower would first have to discover what a neighbour is, for which this project's trainings are too short.
    """
    around = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    frequencies = vision.rotary_pos_emb.inv_freq.float()
    heads = vision.config.num_heads
    local = max(1, heads * 3 // 4)
    for index, block in enumerate(vision.blocks):
        attention = block.attn
        query, key, _ = attention.qkv.bias.view(3, heads, -1)
        for head in range(local):
            dy, dx = around[(index * local + head) * 3 % len(around)]
            turn = torch.cat((dy * frequencies, dx * frequencies))
            key[head] = torch.cat((torch.full_like(turn, strength), torch.zeros_like(turn)))
            query[head] = strength * torch.cat((turn.cos(), turn.sin()))


def encode_images(
    vision: Qwen3VLVisionModel, patches: torch.Tensor, rows: int, columns: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The vision tower on a batch of images of one size, like its own forward but without a loop over the images.

    patches: B x (rows * columns) x values, in the processor's order. Returns the patches' tokens, B x N x hidden, and
    the merged ones, B x N/4 x the language model's width.
    """
    from transformers.models.qwen3_vl.modeling_qwen3_vl import (
        get_vision_interpolation_indices_and_weights,
        get_vision_position_ids,
        rotate_half,
    )

    batch, count, _ = patches.shape
    grid = torch.tensor([[1, rows, columns]], device=patches.device)
    indices, weights = get_vision_interpolation_indices_and_weights(
        grid,
        num_grid_per_side=vision.num_grid_per_side,
        mode=vision.interpolation_mode,
        align_corners=vision.interpolation_align_corners,
        spatial_merge_size=MERGE,
    )
    places = (vision.pos_embed(indices) * weights[:, :, None]).sum(1)
    embed = vision.patch_embed.proj
    hidden = torch.nn.functional.linear(patches, embed.weight.flatten(1), embed.bias) + places
    cos, sin = vision.rotary_pos_emb(hidden, get_vision_position_ids(grid, MERGE))
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    cos, sin = cos.to(dtype), sin.to(dtype)
    for block in vision.blocks:
        attention = block.attn
        qkv = attention.qkv(block.norm1(hidden)).view(batch, count, 3, attention.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        query, key = (x * cos + rotate_half(x) * sin for x in (query, key))
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value)
        hidden = hidden + attention.proj(mixed.transpose(1, 2).reshape(batch, count, -1))
        hidden = hidden + block.mlp(block.norm2(hidden))
    merged = vision.merger(hidden.view(batch * count, -1)).view(batch, count // MERGE**2, -1)
    return hidden, merged
