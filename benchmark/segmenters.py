"""Time and memory of the segmenters: encoding a frame, segmenting 1 and 8 targets in it, a whole frame with one target.

    python benchmark/segmenters.py                          every architecture at its published size, random weights
    python benchmark/segmenters.py sam2_tiny edgetam        some of them
    python benchmark/segmenters.py --model facebook/sam2.1-hiera-tiny          a model by hub name or folder
    python benchmark/segmenters.py --backend vlsm --model embedded

Speed does not depend on the values of the weights, so no download is needed to compare machines. Each architecture runs
in its own process; memory is the most it has held (GPU: torch's, without CUDA's own; CPU: the process's growth). Times
are the median and the 99th percentile over the runs, from numpy image to numpy masks. The VLSM encodes an image only
when a target in it needs that, and only once: only the time of the whole frame includes its encoding.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from rsvp_ros.geometry import Box
from rsvp_ros.segmentation.loading import SegmenterConfig, compile_encoder, load_segmenter, warm_up
from rsvp_ros.segmentation.segmenter import Segmenter
from rsvp_ros.types import Prompt


def _box_model(model_type: str, **config: Any) -> Callable[[str, str], Segmenter]:
    def build(device: str, dtype: str) -> Segmenter:
        import transformers

        from rsvp_ros.segmentation import transformers_sam as sam
        from rsvp_ros.segmentation.torch_runtime import choose_device, choose_dtype, move_to_device

        family = sam.FAMILIES[model_type]
        model_class = getattr(transformers, family.model)
        target = choose_device(device)
        model = move_to_device(model_class(model_class.config_class(**config)), model_type, target)
        transform = sam.image_transform(getattr(transformers, family.image_processor)())
        return sam.TransformersSamSegmenter(
            model, transform, model_type, device=target, dtype=choose_dtype(dtype, target)
        )

    return build


def _segment_anything(name: str) -> Callable[[str, str], Segmenter]:
    def build(device: str, dtype: str) -> Segmenter:
        import segment_anything

        from rsvp_ros.segmentation.segment_anything_adapter import SegmentAnythingSegmenter

        return SegmentAnythingSegmenter(segment_anything.sam_model_registry[name](), name, device=device, dtype=dtype)

    return build


def _sam3(device: str, dtype: str) -> Segmenter:
    import transformers

    from rsvp_ros.segmentation.sam3 import Sam3Segmenter
    from rsvp_ros.segmentation.torch_runtime import choose_device, choose_dtype, move_to_device
    from rsvp_ros.segmentation.transformers_sam import image_transform

    def tokenizer(text: str, **options: Any) -> transformers.BatchEncoding:
        ids = [[49406, *(ord(letter) for letter in text[:20]), 49407]]
        ids[0] += [49407] * (32 - len(ids[0]))
        return transformers.BatchEncoding({"input_ids": ids, "attention_mask": [[1] * 32]}, tensor_type="pt")

    target = choose_device(device)
    model = move_to_device(transformers.Sam3Model(transformers.Sam3Config()), "sam3", target)
    transform = image_transform(transformers.Sam3ImageProcessor())
    return Sam3Segmenter(model, transform, tokenizer, "sam3", device=target, dtype=choose_dtype(dtype, target))


def _text_sam(model_type: str) -> Callable[[str, str], Segmenter]:
    def build(device: str, dtype: str) -> Segmenter:
        import tempfile

        import torch
        import transformers

        from rsvp_ros.segmentation import text_sam, text_sam_segmenter
        from rsvp_ros.segmentation.transformers_sam import FAMILIES

        family = FAMILIES[model_type]
        model_class = getattr(transformers, family.model)
        with tempfile.TemporaryDirectory() as folder:
            model_class(model_class.config_class()).save_pretrained(folder)
            getattr(transformers, family.image_processor)().save_pretrained(folder)
            model = text_sam.TextSam.from_backbone(folder, device)
        with torch.no_grad():
            model.text_path.mask_gate.value.fill_(0.5)  # so that it counts as trained, and texts are read
        return text_sam_segmenter.TextSamSegmenter(model, f"text_sam {model_type}", device, dtype)

    return build


def _sam_vision(width: int, layers: int, heads: int, blocks: list[int]) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "global_attn_indexes": blocks,
        "mlp_dim": 4 * width,
    }


_HUGE = _sam_vision(1280, 32, 16, [7, 15, 23, 31])
_SAM2_LARGE = {
    "backbone_config": {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 144,
        "num_attention_heads": 2,
        "blocks_per_stage": [2, 6, 36, 4],
        "embed_dim_per_stage": [144, 288, 576, 1152],
        "num_attention_heads_per_stage": [2, 4, 8, 16],
        "window_size_per_stage": [8, 4, 16, 8],
        "global_attention_blocks": [23, 33, 43],
    },
    "model_type": "sam2_vision_model",
    "backbone_channel_list": [1152, 576, 288, 144],
}
# The default of EdgeTamVisionConfig in transformers 5.23 is not the published backbone.
_REPVIT = {
    "model_type": "edgetam_vision_model",
    "backbone_config": {
        "model_type": "timm_wrapper",
        "architecture": "repvit_m1",
        "num_classes": 2,
        "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
    },
}

ARCHITECTURES: dict[str, Callable[[str, str], Segmenter]] = {
    "segment_anything_vit_b": _segment_anything("vit_b"),
    "segment_anything_vit_h": _segment_anything("vit_h"),
    "sam_vit_b": _box_model("sam"),
    "sam_vit_h": _box_model("sam", vision_config=_HUGE),
    "sam_hq_vit_b": _box_model("sam_hq"),
    "sam2_tiny": _box_model("sam2"),
    "sam2_large": _box_model("sam2", vision_config=_SAM2_LARGE),
    "edgetam": _box_model("edgetam", vision_config=_REPVIT),
    "sam3_tracker": _box_model("sam3_tracker"),
    "sam3": _sam3,
    "text_sam_vit_b": _text_sam("sam"),
    "text_sam2_tiny": _text_sam("sam2"),
}


def _resident() -> int:
    """Peak memory of this process, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _times(call: Callable[[], object], runs: int) -> dict[str, float]:
    """Median and 99th percentile, milliseconds; every segmenter returns numpy arrays, so it has waited for the GPU."""
    durations = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        durations.append((time.perf_counter() - start) * 1e3)
    return {"median": float(np.median(durations)), "p99": float(np.percentile(durations, 99))}


def measure(build: Callable[[], Segmenter], width: int, height: int, runs: int) -> dict[str, Any]:
    """Measure one segmenter in this process."""
    import torch

    before = _resident()
    segmenter = build()
    warm_up(segmenter, width, height)
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    boxes = [Box(width * i / 10, height * 0.3, width * (i + 2) / 10, height * 0.7) for i in range(8)]
    prompts = [Prompt(box, "mug" if segmenter.reads_text else "") for box in boxes]
    on_gpu = torch.cuda.is_available() and str(getattr(segmenter, "device", "cpu")).startswith("cuda")

    def encode() -> object:
        features = segmenter.encode(image)
        if on_gpu:
            torch.cuda.synchronize()
        return features

    features = segmenter.encode(image)
    return {
        "encode": _times(encode, runs),
        "segment_1": _times(lambda: segmenter.segment(features, prompts[:1]), runs),
        "segment_8": _times(lambda: segmenter.segment(features, prompts), runs),
        "frame": _times(lambda: segmenter.segment(segmenter.encode(image), prompts[:1]), runs),
        "memory": torch.cuda.max_memory_allocated() if on_gpu else _resident() - before,
        "device": torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architectures", nargs="*", help=f"any of {', '.join(ARCHITECTURES)} (default: all)")
    parser.add_argument("--model", help="a model to measure instead: hub name, folder or checkpoint")
    parser.add_argument(
        "--backend", default="transformers", help="backend of --model: vlsm, segment_anything, transformers, text_sam"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--compile", action="store_true", help="compile the image encoder")
    parser.add_argument("--size", type=int, nargs=2, default=(640, 480), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="print one JSON object per line, for programs")
    arguments = parser.parse_args()
    for name in arguments.architectures:
        if name not in ARCHITECTURES:
            parser.error(f"unknown architecture {name}")
    names = arguments.architectures or list(ARCHITECTURES)
    if arguments.model is None and len(names) > 1:
        if not arguments.json:
            print(f"{platform.machine()}, {arguments.size[0]} x {arguments.size[1]}, {arguments.runs} runs")
        options = ["--device", arguments.device, "--dtype", arguments.dtype, "--runs", str(arguments.runs)]
        options += ["--size", *map(str, arguments.size)]
        options += ["--json"] * arguments.json + ["--compile"] * arguments.compile
        failed = [name for name in names if subprocess.run([sys.executable, __file__, name, *options]).returncode]
        sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
    if arguments.model is not None:
        label = arguments.model
        config = SegmenterConfig(arguments.backend, label, arguments.device, arguments.dtype, compile=arguments.compile)
        result = measure(lambda: load_segmenter(config), *arguments.size, arguments.runs)
    else:
        label = names[0]

        def build() -> Segmenter:
            segmenter = ARCHITECTURES[label](arguments.device, arguments.dtype)
            if arguments.compile:
                compile_encoder(segmenter)
            return segmenter

        result = measure(build, *arguments.size, arguments.runs)
    if arguments.json:
        print(json.dumps({"name": label, "dtype": arguments.dtype, "compile": arguments.compile, **result}), flush=True)
        return
    times = "  ".join(
        f"{key} {result[key]['median']:7.1f} ms (p99 {result[key]['p99']:.1f})"
        for key in ("encode", "segment_1", "segment_8", "frame")
    )
    print(
        f"{label:24} {arguments.dtype:9} {times}  {result['memory'] / 2**20:6.0f} MiB  {result['device']}", flush=True
    )


if __name__ == "__main__":
    main()
