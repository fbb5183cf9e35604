"""Loading by name, and a model's two faces: the untouched one and its TransformerLens twin, over one set of weights."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import torch

import headscope
from headscope.errors import DeviceError, ModelError, UnknownNameError, UnsupportedError
from headscope.models import catalog, load
from headscope.models.bridged import BridgedModel, twin_of
from headscope.models.planted import CIRCUIT_KINDS, KINDS, build_planted

ALL = (
    "llama",
    "qwen2",
    "gpt2",
    "gpt_neox",
    "opt",
    "mistral, window 8",
    "gemma2, window 8, capped",
    "gpt_neo, no registry",
)
every_architecture = pytest.mark.parametrize("name", ALL)
Tiny = Callable[[str], BridgedModel]


def tokens_of(model: BridgedModel) -> torch.Tensor:
    """Two rows of random tokens."""
    return torch.randint(0, model.shape.d_vocab, (2, 20), generator=torch.Generator().manual_seed(0))


def test_everything_in_the_catalogue_with_a_fixed_name_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [entry.name for entry in catalog()]
    kinds = [f"planted:{kind}" for kind in (*KINDS, *CIRCUIT_KINDS)]
    assert names == ["smollm2", *kinds, "trained:ioi", "OWNER/NAME", "./FOLDER"]
    monkeypatch.setattr("headscope.models.loading.load_embedded", lambda *given: given)
    assert load("smollm2", device="cpu") == ("smollm2", torch.device("cpu"), torch.float32)
    for kind in (*KINDS, *CIRCUIT_KINDS):
        model = load(f"planted:{kind}", device="cpu", seed=3)
        assert model.name == f"planted:{kind}"
        assert model.revision == "seed 3"
        assert model.plain.dtype == torch.float32
        assert len(model.needles) == (6 if kind in KINDS else 0)
    assert all(entry.description for entry in catalog())


def test_load_is_there_in_the_first_line_of_a_notebook() -> None:
    assert headscope.load is load


@pytest.mark.parametrize("seed", [0, 5])
def test_a_planted_model_is_the_one_whose_truth_is_known(seed: int) -> None:
    built, loaded = build_planted("all", seed), load("planted:all", device="cpu", seed=seed)
    weights = built.hf.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in loaded.plain.state_dict().items())
    assert (loaded.shape.n_layers, loaded.shape.n_heads, loaded.shape.n_kv_heads) == (3, 8, 4)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("smolm2", "smollm2"),
        ("SmolLM2", "smollm2"),
        ("smollm", "smollm2"),
        ("smollm2 ", "smollm2"),
        ("planted", "planted:ioi"),
        ("planted:al", "planted:all"),
        ("Planted:sink", "planted:sink"),
        ("planted:inducton", "planted:induction"),
    ],
)
def test_a_near_miss_names_the_nearest_right_one(given: str, meant: str) -> None:
    with pytest.raises(UnknownNameError, match=rf"no model is called '{given}'\. Did you mean '{meant}'\? Known: "):
        load(given, device="cpu")


@pytest.mark.parametrize("given", ["", "a/b/c", "../nowhere", "~/model", "a\0b", "C:\\model", "has blank"])
def test_what_can_be_no_name_is_refused_with_what_there_is(given: str) -> None:
    with pytest.raises(UnknownNameError, match=r"Known: planted:all, .*See: headscope models"):
        load(given, device="cpu")


@pytest.mark.parametrize("given", ["nobody/nothing", "gtp2", "héllo/model", "a" * 300])
def test_a_hub_id_that_is_not_there_says_what_was_tried_within_two_seconds(given: str) -> None:
    started = time.perf_counter()
    with pytest.raises(ModelError) as refused:
        load(given, device="cpu")
    assert time.perf_counter() - started < 2
    message = str(refused.value)
    assert "\n" not in message
    places = ("the catalogue", "a local folder", "the local Hugging Face cache", "the Hugging Face hub (out of reach")
    at = [message.index(place) for place in places]
    assert at == sorted(at)


def test_a_hub_whose_name_does_not_resolve_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def unresolved(*_: object) -> list[object]:
        raise OSError("Name or service not known")

    monkeypatch.setattr("headscope.models.loading.hub_constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.getaddrinfo", unresolved)
    for proxy in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
    started = time.perf_counter()
    with pytest.raises(ModelError, match="its name does not resolve"):
        load("nobody/nothing", device="cpu")
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize("device", ["tpu", "", "cuda:-1", "cuda:x", "gpu"])
def test_what_is_no_device_is_refused_with_what_is(device: str) -> None:
    with pytest.raises(DeviceError, match=r"is not a device. Use auto, cpu, cuda, cuda:0 ... or mps"):
        load("planted:sink", device=device)


@pytest.mark.parametrize("device", ["cpu:1", "cuda:99", "meta", "xpu"])
def test_a_device_that_this_machine_lacks_is_refused(device: str) -> None:
    with pytest.raises(DeviceError, match=rf"this machine has no device '{device}'.*Use --device cpu"):
        load("planted:sink", device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_without_a_cuda_device_is_refused_and_auto_takes_the_cpu() -> None:
    with pytest.raises(DeviceError, match="this machine has no device 'cuda'"):
        load("planted:sink", device="cuda")
    assert load("planted:sink").device == torch.device("cpu")


def test_a_number_format_is_one_of_three() -> None:
    assert load("planted:sink", device="cpu", dtype="bfloat16").plain.dtype == torch.bfloat16
    with pytest.raises(DeviceError, match=r"'float64' is not a number format. Use one of: float32, bfloat16, float16"):
        load("planted:sink", device="cpu", dtype="float64")


@every_architecture
def test_the_twin_shares_the_storage_of_every_parameter_and_buffer(tiny: Tiny, name: str) -> None:
    plain = tiny(name).plain
    twin = twin_of(plain)
    for theirs, ours in (
        (twin.named_parameters(), plain.named_parameters()),
        (twin.named_buffers(), plain.named_buffers()),
    ):
        pairs = list(zip(theirs, ours, strict=True))
        for (their_name, their_value), (our_name, our_value) in pairs:
            assert their_name == our_name
            assert their_value is our_value
    own = {id(module) for module in plain.modules()}
    assert not own & {id(module) for module in twin.modules()}, "modules are its own"
    assert twin.config is not plain.config


@every_architecture
def test_the_bridge_holds_the_very_weights_of_the_plain_model(tiny: Tiny, name: str) -> None:
    model = tiny(name)
    held = {parameter.data_ptr() for parameter in model.bridge.original_model.parameters()}
    assert {parameter.data_ptr() for parameter in model.plain.parameters()} <= held


@every_architecture
def test_both_faces_give_the_logits_of_the_untouched_model_and_say_which_was_used(tiny: Tiny, name: str) -> None:
    model = tiny(name)
    tokens = tokens_of(model)
    with torch.no_grad():
        expected = model.plain(input_ids=tokens).logits
    plain = model.logits(tokens)
    assert model.last_path == "plain"
    bridged = model.logits(tokens, path="bridge")
    assert model.last_path == "bridge"
    torch.testing.assert_close(plain, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(bridged, expected, atol=1e-3, rtol=0)


@every_architecture
@pytest.mark.parametrize("path", ["plain", "bridge"])
def test_logits_of_chosen_rows_are_those_rows_of_all_logits(tiny: Tiny, name: str, path: str) -> None:
    model, rows = tiny(name), torch.tensor([3, 0, 19])
    tokens = tokens_of(model)
    everything = model.logits(tokens, path=path)
    torch.testing.assert_close(model.logits(tokens, rows=rows, path=path), everything[:, rows], atol=1e-5, rtol=1e-5)


def test_bridging_changes_neither_the_plain_model_nor_its_tokenizer(tiny: Tiny) -> None:
    known = tiny("llama")
    tokenizer = known.tokenizer
    tokenizer_before = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.padding_side)
    model = BridgedModel(twin_of(known.plain), tokenizer, name="fresh")
    tokens = tokens_of(model)
    before, modules = model.logits(tokens), [(name, type(module)) for name, module in model.plain.named_modules()]
    implementation = model.plain.config._attn_implementation
    weights = {name: value.clone() for name, value in model.plain.state_dict().items()}
    _ = model.bridge
    model.logits(tokens, path="bridge")
    assert torch.equal(model.logits(tokens), before)
    assert [(name, type(module)) for name, module in model.plain.named_modules()] == modules
    assert model.plain.config._attn_implementation == implementation
    assert all(torch.equal(value, weights[name]) for name, value in model.plain.state_dict().items())
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.padding_side) == tokenizer_before


def test_a_model_without_a_start_token_still_has_none_after_bridging(
    tiny: Tiny, without_bos: Callable[[BridgedModel], BridgedModel]
) -> None:
    model = without_bos(tiny("qwen2"))
    assert model.bos is None
    assert model.encode("the queen", bos=True) == model.encode("the queen")
    _ = model.bridge
    assert model.bos is None


def test_text_and_tokens_go_both_ways(tiny: Tiny) -> None:
    model = tiny("llama")
    assert model.decode(model.encode("the old song")) == "the old song"
    assert model.encode("the old song", bos=True) == [model.bos, *model.encode("the old song")]


@pytest.mark.parametrize(
    ("name", "kv_heads"), [("llama", 2), ("gpt2", 4), ("gpt_neox", 4), ("opt", 4), ("gemma2, window 8, capped", 2)]
)
def test_the_shape_is_that_of_the_weights(tiny: Tiny, name: str, kv_heads: int) -> None:
    shape = tiny(name).shape
    assert (shape.n_layers, shape.n_heads, shape.n_kv_heads) == (3, 4, kv_heads)
    assert (shape.d_head, shape.d_model, shape.d_vocab, shape.n_ctx) == (8, 32, 96, 2048)
    assert len(tiny(name).blocks) == 3


def test_multi_query_attention_has_one_key_value_head() -> None:
    from transformers import FalconConfig, FalconForCausalLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 96}
    one = FalconForCausalLM(FalconConfig(**sizes, multi_query=True))
    two = FalconForCausalLM(FalconConfig(**sizes, new_decoder_architecture=True, num_kv_heads=2))
    every = FalconForCausalLM(FalconConfig(**sizes, multi_query=False))
    assert [BridgedModel(model, None, name="falcon").shape.n_kv_heads for model in (one, two, every)] == [1, 2, 4]


def test_a_model_that_transformer_lens_cannot_wrap_says_so_in_one_line(tiny: Tiny) -> None:
    from transformers import FalconConfig, FalconForCausalLM

    config = FalconConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, vocab_size=96)
    config.architectures = None
    model = BridgedModel(FalconForCausalLM(config), tiny("llama").tokenizer, name="nameless")
    with pytest.raises(
        UnsupportedError, match=r"TransformerLens cannot wrap 'nameless' \(FalconForCausalLM\)"
    ) as refused:
        _ = model.bridge
    assert len(str(refused.value)) < 400
    assert "\n" not in str(refused.value)


def test_loading_a_planted_model_needs_no_transformer_lens() -> None:
    program = (
        "import sys, headscope\nheadscope.load('planted:sink', device='cpu')\nprint('transformer_lens' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert answer.stdout.split() == ["False"]


def test_a_small_decoder_is_sent_to_the_comparison() -> None:
    with pytest.raises(ModelError, match=r"headscope compare checkpoint:mqar\.softmax\.0"):
        load("checkpoint:mqar.softmax.0")
