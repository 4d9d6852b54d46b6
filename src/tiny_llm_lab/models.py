"""Models by name: the embedded one, Qwen3 checkpoints from the Hub, folders, random weights.

`load_model` checks a folder before it hands it to `mlx_lm`, so that a damaged download is named
by file and tensor instead of surfacing as an odd answer or a deep traceback.
"""

import json
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from tiny_llm_lab import PROJECT_ROOT

# Where a model name leads: a folder of this repository, or a repository on the Hugging Face Hub.
EMBEDDED_MODELS = {"tiny": PROJECT_ROOT / "models" / "tiny-qwen3"}
HUB_MODELS = {
    "qwen3-0.6b": "mlx-community/Qwen3-0.6B-4bit",
    "qwen3-1.7b": "mlx-community/Qwen3-1.7B-4bit",
    "qwen3-4b": "mlx-community/Qwen3-4B-4bit",
}
# Random weights of given shapes, for measurements: no download, the speed of a trained model.
RANDOM_MODELS = {
    "random:small": {
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "intermediate_size": 768,
        "vocab_size": 2048,
    },
    "random:qwen3-0.6b": {
        "hidden_size": 1024,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 3072,
        "vocab_size": 151936,
    },
}
REQUIRED_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")


class ModelError(Exception):
    """A model cannot be loaded; the message says which one, why, and what to do."""


def load_model(name: str) -> tuple[Any, Any]:
    """Load a Qwen3 model and its tokenizer, from this machine if it is there.

    Args:
        name: `tiny` (the embedded model), `qwen3-0.6b`, `qwen3-1.7b` or `qwen3-4b` (downloaded
            when first used), a folder, the id of a Hugging Face Hub repository, or `random:small`
            or `random:qwen3-0.6b` (random weights of these shapes, the same ones every time).

    Returns:
        An `mlx_lm.models.qwen3.Model` and its tokenizer (an `mlx_lm` `TokenizerWrapper`; for
        random weights a `ByteTokenizer`).

    Raises:
        ModelError: the name is unknown, the download failed, or the folder does not hold a
            complete, finite Qwen3 model.
    """
    if name in RANDOM_MODELS:
        return _random_model(**RANDOM_MODELS[name]), ByteTokenizer()
    folder = _model_folder(name)
    check_model_folder(folder)
    # Here and not above: importing mlx_lm takes seconds, which a wrong name need not cost.
    from mlx_lm.utils import load
    from transformers.utils import logging

    # What it warns of, such as a prompt beyond the context, is an error of ours.
    logging.set_verbosity_error()
    try:
        model, tokenizer = load(str(folder))[:2]
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise ModelError(f"{folder} cannot be loaded: {_one_line(error)}") from error
    _check_finite(folder, model)
    return model, tokenizer


class ByteTokenizer:
    """What a model with random weights is given instead of a tokenizer: one id per byte of UTF-8.

    Such a model also generates ids that are no bytes; their text is the number. Nothing ends a
    text.
    """

    eos_token_ids: frozenset[int] = frozenset()

    def __init__(self) -> None:
        """Start without text."""
        self.reset()

    @property
    def detokenizer(self) -> "ByteTokenizer":
        """A detokenizer of one's own, at the start of a text."""
        return ByteTokenizer()

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """The bytes of a text; there are no special tokens."""
        return list(text.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        """A text for ids: printable ASCII as it is, everything else as `<id>`."""
        return "".join(chr(id) if 32 <= id < 127 else f"<{id}>" for id in tokens)

    def apply_chat_template(self, messages: Sequence[dict[str, str]], **_: Any) -> str:
        """The messages, one per line."""
        return "\n".join(message["content"] for message in messages)

    def reset(self) -> None:
        """Forget the text."""
        self.text = self.last_segment = ""

    def add_token(self, token: int) -> None:
        """Append the text of a token."""
        self.last_segment = self.decode([token])
        self.text += self.last_segment

    def finalize(self) -> None:
        """Nothing is held back."""
        self.last_segment = ""


def dense_weight(layer: Any) -> mx.array:
    """The weight of a linear or embedding layer as a plain array, dequantized if need be.

    Args:
        layer: an `mlx.nn` layer: Linear, Embedding, or the quantized form of either.

    Returns:
        `O x I`; the dtype of the scales if the layer is quantized, of the weight otherwise. In
        memory the weights of one input lie together, so that the transposed weight, which a
        linear layer multiplies by, is row-major: CPUs do that product two to three times as fast.
    """
    weight = layer.weight
    if hasattr(layer, "scales"):
        weight = mx.dequantize(weight, layer.scales, layer.biases, layer.group_size, layer.bits)
    return mx.contiguous(weight.T).T


def check_model_folder(folder: Path) -> None:
    """Check that a folder holds a complete Qwen3 checkpoint, without reading its tensors.

    Raises:
        ModelError: naming the file, and the tensor where it is one.
    """
    for name in REQUIRED_FILES:
        if not (folder / name).is_file():
            raise ModelError(f"{folder / name} is missing: the folder is not a complete model.")
    config = _read_json(folder / "config.json")
    if config.get("model_type") != "qwen3":
        raise ModelError(
            f"{folder / 'config.json'} says that model_type is {config.get('model_type')!r}, "
            "but the engine of this course runs 'qwen3' models."
        )
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = _read_json(index).get("weight_map", {})
        files = sorted({folder / str(file) for file in weight_map.values()})
    else:
        weight_map = {}
        files = [folder / "model.safetensors"]
    present: set[str] = set()
    for file in files:
        present |= _check_safetensors(file)
    for tensor, file_name in weight_map.items():
        if tensor not in present:
            raise ModelError(f"{folder / str(file_name)} lacks the tensor {tensor}.")


def _check_safetensors(path: Path) -> set[str]:
    """Check that a file is as long as its header says, and return the names of its tensors.

    The format: an 8-byte header length, a JSON header with each tensor's `data_offsets`, the data.
    Source: https://huggingface.co/docs/safetensors/index#format
    """
    if not path.is_file():
        raise ModelError(f"{path} is missing: the folder is not a complete model.")
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        header_size = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if 8 + header_size > size:
            raise ModelError(f"{path} is truncated: it ends within its header. Fetch it again.")
        try:
            header = json.loads(file.read(header_size))
            ends = {
                name: tensor["data_offsets"][1]
                for name, tensor in header.items()
                if name != "__metadata__"
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{path} has a damaged header. Fetch it again.") from error
    data_size = size - 8 - header_size
    for name, end in sorted(ends.items(), key=lambda item: item[1]):
        if end > data_size:
            raise ModelError(
                f"{path} is truncated: tensor {name} should end at byte {end} of the data, "
                f"but there are only {data_size}. Fetch it again."
            )
    return set(ends)


def _random_model(**shape: int) -> Any:
    """A Qwen3 model of a shape, quantized like the embedded one, with weights from a fixed seed.

    Attention is sharp, and attention and feed-forward outweigh the embedding. Otherwise the next
    token would be the last one again, whatever stands before it, since embedding and output head
    are tied.
    """
    from mlx.nn.layers.quantized import quantize
    from mlx.utils import tree_flatten, tree_unflatten
    from mlx_lm.models import qwen3

    args = qwen3.ModelArgs(
        model_type="qwen3",
        rms_norm_eps=1e-6,
        rope_theta=1e6,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        **shape,
    )
    model = qwen3.Model(args)
    parameters: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    drawn = []
    for index, (name, weight) in enumerate(parameters.items()):
        if weight.ndim == 1:
            drawn.append((name, mx.full(weight.shape, 2.0 if "self_attn" in name else 1.0)))
            continue
        scale = 1.0 if "embed_tokens" in name else weight.shape[1] ** -0.5
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            scale *= 16
        key = mx.random.key(index)
        drawn.append((name, mx.random.normal(weight.shape, scale=scale, key=key)))
    model.update(tree_unflatten(drawn))
    del parameters, drawn
    quantize(model, group_size=64, bits=4)
    quantized: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    for tensor in quantized.values():  # one by one: a drawn matrix is large
        mx.eval(tensor)
    return model


def _check_finite(folder: Path, model: Any) -> None:
    from mlx.utils import tree_flatten

    tensors: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    finite = {
        name: mx.all(mx.isfinite(tensor))
        for name, tensor in tensors.items()
        if mx.issubdtype(tensor.dtype, mx.floating)
    }
    mx.eval(list(finite.values()))
    for name, is_finite in finite.items():
        if not is_finite.item():
            raise ModelError(
                f"{folder}: tensor {name} in the safetensors file holds NaN or infinite values; "
                "the weights are damaged. Fetch them again."
            )


def _model_folder(name: str) -> Path:
    if name in EMBEDDED_MODELS:
        return EMBEDDED_MODELS[name]
    if Path(name).is_dir():
        return Path(name)
    hub_id = HUB_MODELS.get(name, name)
    if hub_id.count("/") == 1 and not hub_id.startswith((".", "/", "~")):
        return _download(hub_id)
    known = ", ".join([*EMBEDDED_MODELS, *HUB_MODELS, *RANDOM_MODELS])
    raise ModelError(
        f"There is no model named {name!r} and no such folder; known names are {known}, and "
        "the id of a Hugging Face Hub repository such as mlx-community/Qwen3-0.6B-4bit works too."
    )


def _download(hub_id: str) -> Path:
    """The local folder of a Hub repository; fetched, with progress, if it is not there yet."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    try:
        files = HfApi().model_info(hub_id, files_metadata=True, timeout=20).siblings or []
        size = sum(
            file.size or 0
            for file in files
            if any(Path(file.rfilename).match(pattern) for pattern in patterns)
        )
        print(
            f"Downloading {hub_id} from the Hugging Face Hub: {size / 1e6:,.0f} MB", file=sys.stderr
        )
        return Path(snapshot_download(hub_id, allow_patterns=patterns))
    except HfHubHTTPError as error:
        raise ModelError(
            f"The Hugging Face Hub does not give out {hub_id}: {_one_line(error)}"
        ) from error
    except Exception as error:  # the transport's errors, whichever HTTP library the client brings
        raise ModelError(
            f"{hub_id} is not on this machine and cannot be fetched from the Hugging Face Hub: "
            f"{_one_line(error)}. Connect to a network, or use --model tiny, which needs none."
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} must hold a JSON object.")
    return content


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
