"""Model folders are checked on load; every damage is named by file and tensor."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import mlx.core as mx
import mlx.nn as nn
import pytest

from tiny_llm_lab.models import EMBEDDED_MODELS, ModelError, dense_weight, load_model

TENSOR = "model.layers.1.mlp.up_proj.scales"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A private copy of the embedded model."""
    return Path(shutil.copytree(EMBEDDED_MODELS["tiny"], tmp_path / "model"))


def test_embedded_model_answers_by_name_and_by_folder(folder: Path) -> None:
    for name in ("tiny", str(folder)):
        model, tokenizer = load_model(name)
        assert model(mx.array([tokenizer.encode("Hello")])).shape[-1] == model.args.vocab_size


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
)
def test_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=rf"{name} is missing"):
        load_model(str(folder))


def test_missing_shard_is_named(folder: Path) -> None:
    index = {"weight_map": {TENSOR: "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"model-00001-of-00002\.safetensors is missing"):
        load_model(str(folder))


def test_tensor_that_the_index_promises_is_named(folder: Path) -> None:
    index = {"weight_map": {"model.layers.99.bias": "model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"model\.safetensors lacks the tensor model\.layers\.99"):
        load_model(str(folder))


def test_wrong_architecture_is_named(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    with pytest.raises(ModelError, match=r"config\.json says that model_type is 'llama'"):
        load_model(str(folder))


def test_damaged_json_is_named(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": ')
    with pytest.raises(ModelError, match=r"config\.json is not valid JSON"):
        load_model(str(folder))


@pytest.mark.parametrize(("kept", "what"), [(4, "within its header"), (-1, "tensor model")])
def test_truncated_file_is_named(folder: Path, kept: int, what: str) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelError, match=rf"model\.safetensors is truncated: .*{what}"):
        load_model(str(folder))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_non_finite_tensor_is_named(folder: Path, bad: float) -> None:
    weights = mx.load(str(folder / "model.safetensors"))
    weights[TENSOR][0, 0] = bad
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    with pytest.raises(ModelError, match=rf"tensor {TENSOR} .*NaN or infinite"):
        load_model(str(folder))


def test_missing_tensor_is_named(folder: Path) -> None:
    weights = mx.load(str(folder / "model.safetensors"))
    del weights["model.norm.weight"]
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    with pytest.raises(ModelError, match=r"model\.norm\.weight"):
        load_model(str(folder))


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ModelError, match=r"no model named 'huge'.*tiny, qwen3-0\.6b"):
        load_model("huge")


def test_without_a_network_a_download_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_cached(*args: object, **kwargs: object) -> None:
        raise huggingface_hub.errors.LocalEntryNotFoundError("not cached")

    def unreachable(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", not_cached)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    with pytest.raises(ModelError, match=r"Qwen3-0\.6B-4bit .*no route to host") as raised:
        load_model("qwen3-0.6b")
    assert "\n" not in str(raised.value)


def test_a_download_says_what_and_how_large(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    files = [
        SimpleNamespace(rfilename="model.safetensors", size=335_000_000),
        SimpleNamespace(rfilename="picture.png", size=999_000_000),
    ]

    def snapshot(hub_id: str, *, local_files_only: bool = False, **kwargs: object) -> str:
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not cached")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(
        huggingface_hub.HfApi, "model_info", lambda *args, **kwargs: SimpleNamespace(siblings=files)
    )
    load_model("qwen3-0.6b")
    assert "mlx-community/Qwen3-0.6B-4bit from the Hugging Face Hub: 335 MB" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("bits", [4, 8])
def test_dense_weight_is_what_the_layer_multiplies_with(bits: int) -> None:
    mx.random.seed(bits)
    linear = nn.Linear(128, 96, bias=False)
    assert mx.array_equal(dense_weight(linear), linear.weight)
    quantized = nn.QuantizedLinear.from_linear(linear, group_size=64, bits=bits)
    identity = mx.eye(128)
    assert mx.allclose(quantized(identity).T, dense_weight(quantized), atol=1e-6)
