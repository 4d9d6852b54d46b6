"""Models by name: the embedded one, Qwen3 checkpoints, folders."""

from typing import Any

import mlx.core as mx


def dense_weight(layer: Any) -> mx.array:
    """The weight of a linear or embedding layer as a plain array, dequantized if need be.

    Args:
        layer: an `mlx.nn` layer: Linear, Embedding, or the quantized form of either.

    Returns:
        `O x I`; the dtype of the scales if the layer is quantized, of the weight otherwise.
    """
    if not hasattr(layer, "scales"):
        return layer.weight
    return mx.dequantize(layer.weight, layer.scales, layer.biases, layer.group_size, layer.bits)


def load_model(name: str) -> tuple[Any, Any]:
    """Placeholder of the first slice: the embedded model only."""
    from pathlib import Path

    import mlx_lm

    root = Path(__file__).resolve().parents[2]
    return mlx_lm.load(str(root / "models" / "tiny-qwen3"))[:2]
