"""From a configuration to a model that answers."""

from __future__ import annotations

from rsvp_ros.reasoning.mllm.base import Mllm
from rsvp_ros.reasoning.mllm.openai_mllm import OpenAiConfig, OpenAiMllm
from rsvp_ros.reasoning.mllm.transformers_mllm import TransformersConfig, TransformersMllm
from rsvp_ros.reasoning.mllm.worker import WorkerMllm


def load_mllm(config: TransformersConfig | OpenAiConfig, isolated: bool = True) -> Mllm:
    """Load the model that `config` describes; the caller closes it.

    A local model gets a process of its own, so that it never holds this one's GIL; `isolated=False` loads it here. A
    server is asked from this process.

    Raises ModelLoadError, ConfigurationError.
    """
    if isinstance(config, OpenAiConfig):
        return OpenAiMllm(config)
    return WorkerMllm(config) if isolated else TransformersMllm(config)
