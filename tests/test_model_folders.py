"""Local folders: safetensors load, and whatever could run code, or is not whole, is refused in one line."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from headscope.errors import ModelError
from headscope.models import load
from headscope.models.bridged import BridgedModel
from probes import ProbeConfig, score

Tiny = Callable[[str], BridgedModel]
Saved = Callable[[str], Path]


@pytest.fixture
def saved(tiny: Tiny, tmp_path: Path) -> Saved:
    """A function that saves a small model into a folder of its own, as transformers does."""

    def save(name: str) -> Path:
        folder = tmp_path / "models" / name.split(",")[0]
        tiny(name).plain.save_pretrained(folder)
        tiny(name).tokenizer.save_pretrained(folder)
        return folder

    return save


def edit_config(folder: Path, **changes: object) -> None:
    """Change keys of config.json."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change tensors of model.safetensors."""
    weights = {name: value.clone() for name, value in load_file(folder / "model.safetensors").items()}
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def refusal(folder: Path) -> str:
    """The message that loading a folder ends with: one line that names the folder."""
    with pytest.raises(ModelError) as refused:
        load(str(folder), device="cpu")
    message = str(refused.value)
    assert message.startswith(f"the folder {folder} ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2, window 8, capped"])
def test_a_saved_model_loads_and_computes_the_same(tiny: Tiny, saved: Saved, name: str) -> None:
    folder = saved(name)
    model, tokens = load(str(folder), device="cpu"), torch.arange(20)[None]
    assert torch.equal(model.logits(tokens), tiny(name).logits(tokens))
    assert model.encode("the old song", bos=True) == tiny(name).encode("the old song", bos=True)
    assert model.name == folder.name
    assert model.source == f"local folder {folder.name}"
    assert model.shape == tiny(name).shape


def test_a_saved_model_can_be_scored(tiny: Tiny, saved: Saved) -> None:
    config = ProbeConfig(repeated_examples=2, period=5, copies=2)
    loaded, original = (score(m, "induction", config) for m in (load(str(saved("llama")), device="cpu"), tiny("llama")))
    assert (loaded.values == original.values).all()


def test_tied_weights_are_not_missed(tmp_path: Path, tiny: Tiny) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=96, n_embd=32, n_layer=1, n_head=4, tie_word_embeddings=True, bos_token_id=0)
    model = GPT2LMHeadModel(config).eval()
    model.save_pretrained(tmp_path)
    tiny("gpt2").tokenizer.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    tokens = torch.arange(9)[None]
    assert torch.equal(load(str(tmp_path), device="cpu").logits(tokens), model(tokens).logits.detach())


def test_the_revision_tells_two_checkpoints_with_one_configuration_apart(saved: Saved) -> None:
    folder = saved("llama")
    first, again = (load(str(folder), device="cpu").revision for _ in range(2))
    edit_weights(folder, lambda weights: weights["model.norm.weight"].add_(1))
    assert first == again
    assert first.startswith("sha256:")
    assert load(str(folder), device="cpu").revision != first


def test_a_relative_path_takes_the_folders_own_name(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(saved("llama"))
    assert load(".", device="cpu").name == "llama"
    assert load("../llama/", device="cpu").name == "llama"


def test_a_folder_without_a_configuration_is_no_model(saved: Saved) -> None:
    folder = saved("llama")
    (folder / "config.json").unlink()
    assert "has no config.json: it is not a transformers model" in refusal(folder)


@pytest.mark.parametrize("content", ["", "{nope", "[1]", "{}", '"text"', '{"model_type": "nonesuch"}'])
def test_a_configuration_that_says_nothing_is_refused(saved: Saved, content: str) -> None:
    folder = saved("llama")
    (folder / "config.json").write_text(content)
    refusal(folder)


@pytest.mark.parametrize("changes", [{"hidden_size": "many"}, {"hidden_size": 48}, {"num_attention_heads": 3}])
def test_a_configuration_that_does_not_fit_is_refused(saved: Saved, changes: dict[str, object]) -> None:
    folder = saved("llama")
    edit_config(folder, **changes)
    refusal(folder)


def test_weights_that_are_missing_are_never_made_up(saved: Saved) -> None:
    folder = saved("llama")
    edit_weights(folder, lambda weights: weights.pop("model.layers.1.self_attn.q_proj.weight"))
    assert "lack 1 of the model's tensors, such as model.layers.1.self_attn.q_proj.weight" in refusal(folder)
    edit_config(folder, num_hidden_layers=4)
    assert "lack 10 of the model's tensors" in refusal(folder), "nor a layer that was never trained"


def test_weights_that_have_no_place_in_the_model_are_mentioned(saved: Saved, caplog: pytest.LogCaptureFixture) -> None:
    folder = saved("llama")
    load(str(folder), device="cpu")
    assert not caplog.records
    edit_config(folder, num_hidden_layers=2)
    assert load(str(folder), device="cpu").shape.n_layers == 2
    assert "9 tensors have no place in the model, such as model.layers.2.input_layernorm.weight" in caplog.text


def test_broken_weights_are_refused(saved: Saved) -> None:
    folder = saved("llama")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for broken in (b"", b"\xff" * 100, whole[: len(whole) // 2], b"PK\x03\x04" + whole):
        weights.write_bytes(broken)
        refusal(folder)
    weights.unlink()
    assert "no file named model.safetensors" in refusal(folder)


def test_a_folder_without_a_tokenizer_is_refused(saved: Saved) -> None:
    folder = saved("llama")
    for path in folder.glob("tokenizer*"):
        path.unlink()
    assert "tokenizer" in refusal(folder)


class Trap:
    """An object whose unpickling leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, ...]]:
        return shutil.copy, (__file__, str(self.mark))


def test_pickled_weights_are_refused_and_never_opened(saved: Saved, tmp_path: Path) -> None:
    folder, mark = saved("llama"), tmp_path / "opened"
    for name in ("pytorch_model.bin", "model.pt", "consolidated.00.pth", "tokenizer.pkl", "vocab.pkl"):
        (folder / name).write_bytes(pickle.dumps(Trap(mark)))
    load(str(folder), device="cpu")
    (folder / "model.safetensors").unlink()
    assert "no file named model.safetensors" in refusal(folder)
    torch.save(Trap(mark), folder / "pytorch_model.bin")
    refusal(folder)
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "pytorch_model.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    refusal(folder)
    assert not mark.exists()
    pickle.loads((folder / "model.pt").read_bytes())
    assert mark.exists(), "the trap works"


AUTO_MAP = {
    "AutoConfig": "trap.Config",
    "AutoModelForCausalLM": "trap.Model",
    "AutoTokenizer": ["trap.Tok", "trap.Tok"],
}


@pytest.mark.parametrize("model_type", ["llama", "nonesuch"])
@pytest.mark.parametrize("where", ["config.json", "tokenizer_config.json"])
def test_custom_code_in_a_folder_is_never_executed(saved: Saved, tmp_path: Path, model_type: str, where: str) -> None:
    folder, mark = saved("llama"), tmp_path / "executed"
    (folder / "trap.py").write_text(f"open({str(mark)!r}, 'w').close()\nConfig = Model = Tok = object\n")
    config = json.loads((folder / where).read_text())
    (folder / where).write_text(json.dumps(config | {"auto_map": AUTO_MAP, "tokenizer_class": "Tok"}))
    edit_config(folder, model_type=model_type)
    try:
        load(str(folder), device="cpu")
    except ModelError as refused:
        assert str(folder) in str(refused)  # noqa: PT017 (whether it loads is up to transformers)
    else:
        assert model_type == "llama"
    assert not mark.exists()


def test_an_attention_kernel_from_the_hub_is_remote_code_and_refused(saved: Saved) -> None:
    folder = saved("llama")
    edit_config(folder, attn_implementation="somebody/kernel")
    assert "asks for the attention kernel 'somebody/kernel', which is remote code" in refusal(folder)
