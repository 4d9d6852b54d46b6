"""Writes trained weights as an MLX 4-bit checkpoint in Hugging Face layout."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.nn.layers.quantized import quantize
from mlx.utils import tree_flatten
from mlx_lm.models import qwen3

from .tokenizer import CONTEXT

GROUP_SIZE = 64
BITS = 4


def export(weights: dict[str, np.ndarray], dimensions: dict[str, Any], folder: Path) -> None:
    """Quantize and save.

    Scales and biases stay in float32: MLX multiplies these fastest on a CPU.

    Args:
        weights: by checkpoint name, float32.
        dimensions: the fields of `ModelConfig`.
        folder: where config.json, generation_config.json and model.safetensors go.
    """
    ids: dict[str, Any] = {"eos_token_id": 2, "pad_token_id": 0}
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        **dimensions,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "hidden_act": "silu",
        "torch_dtype": "float32",
        **ids,
    }
    model = qwen3.Model(qwen3.ModelArgs.from_dict(config))
    model.load_weights([(name, mx.array(array)) for name, array in weights.items()], strict=True)
    quantize(model, group_size=GROUP_SIZE, bits=BITS)
    quantization = {"group_size": GROUP_SIZE, "bits": BITS}
    config |= {"quantization": quantization, "quantization_config": quantization}
    folder.mkdir(parents=True, exist_ok=True)
    tensors = dict(tree_flatten(model.parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(ids) + "\n")
