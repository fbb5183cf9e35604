"""Language modelling on documentation that every Python has: the language reference and the library's docstrings."""

from __future__ import annotations

import ast
import hashlib
import sysconfig
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

import torch
from jaxtyping import Int
from pydantic import Field
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from headscope.config import Config
from headscope.errors import TaskError
from headscope.tasks.haystack import load_haystack
from headscope.tasks.synthetic import SyntheticBatch, SyntheticTask
from headscope.tasks.synthetic_drawing import draw_integers

MODULES = (
    "argparse", "ast", "calendar", "cmd", "code", "codecs", "configparser", "contextlib", "csv", "dataclasses",
    "datetime", "difflib", "dis", "doctest", "enum", "fractions", "functools", "glob", "gzip", "heapq", "inspect",
    "ipaddress", "locale", "mailbox", "optparse", "pathlib", "pdb", "pickle", "pickletools", "platform", "plistlib",
    "pprint", "queue", "random", "shelve", "shlex", "shutil", "smtplib", "socket", "socketserver", "ssl",
    "statistics", "string", "subprocess", "tarfile", "tempfile", "textwrap", "threading", "timeit", "tokenize",
    "trace", "traceback", "turtle", "types", "typing", "unittest/case", "unittest/mock", "uuid", "weakref", "zipfile",
)  # fmt: skip
"""The library's modules whose docstrings are read, in this order; one that a Python does not have is left out."""

_CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
_PLACES = {character: place for place, character in enumerate(_CHARACTERS)}
_PLAIN = str.maketrans(
    {"\t": " ", "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-", "\xa0": " "}
)
_STRETCH, _EVERY = 2048, 10  # characters of a stretch; every tenth is held out


class DocumentationTextSettings(Config):
    """Of language modelling.

    Attributes:
        length: tokens of an example.
        vocabulary: ``characters``: line end, printable ASCII, and one id for all others; ``byte_pairs``: pairs of bytes
            that are joined by frequency in the training text.
        byte_pairs: ids of that vocabulary.
        split: the stretches of text that examples are cut from.
    """

    length: int = Field(default=128, ge=2)
    vocabulary: Literal["characters", "byte_pairs"] = "characters"
    byte_pairs: int = Field(default=512, ge=256, le=8192)
    split: Literal["training", "held_out"] = "training"


@lru_cache(maxsize=1)
def documentation_text() -> str:
    """The language reference, then the docstrings of `MODULES`, as plain ASCII with a few marks made plain.

    It differs between versions of Python: `text_hash` tells which text it is.

    Raises:
        TaskError: if this Python comes without the sources of its library.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    parts = [load_haystack()]
    for name in MODULES:
        path = folder / f"{name}.py"
        if path.is_file():
            parts += _docstrings(path.read_text(encoding="utf-8"))
    if len(parts) == 1:
        raise TaskError(f"the task reads the docstrings of Python's own library, and {folder} holds none of it.")
    return "\n\n".join(parts).translate(_PLAIN)


def _docstrings(source: str) -> list[str]:
    """Docstrings in the order of the source."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, documented)]
    found.sort(key=lambda node: getattr(node, "lineno", 0))
    return [text for node in found if (text := ast.get_docstring(node))]


def text_hash() -> str:
    """First 8 hexadecimal digits of the sha256 of the text: the same digits, the same task."""
    return hashlib.sha256(documentation_text().encode()).hexdigest()[:8]


def stretches(split: Literal["training", "held_out"]) -> tuple[str, ...]:
    """The stretches of a split, all of the same number of characters; what is left at the end is in neither."""
    text = documentation_text()
    return tuple(
        text[index * _STRETCH : (index + 1) * _STRETCH]
        for index in range(len(text) // _STRETCH)
        if (index % _EVERY == _EVERY - 1) == (split == "held_out")
    )


@lru_cache(maxsize=4)
def byte_pair_tokenizer(size: int) -> Tokenizer:
    """A byte-pair vocabulary of ``size`` ids, learned from the training stretches."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(stretches("training"), trainer)
    return tokenizer


@dataclass(frozen=True)
class _Ids:
    """Ids of all stretches, one after the other, and how many each has."""

    ids: Int[Tensor, " N"]
    ends: Int[Tensor, " S"]
    windows: Int[Tensor, " S"]


@lru_cache(maxsize=16)
def _ids(settings_json: str, device: torch.device) -> _Ids:
    """The ids, with the cumulative number of windows of ``length + 1`` tokens that lie inside one stretch."""
    settings = DocumentationTextSettings.model_validate_json(settings_json)
    rows = [_encode(text, settings) for text in stretches(settings.split)]
    sizes = torch.tensor([len(row) for row in rows])
    windows = (sizes - settings.length).clamp(min=0)
    if not int(windows.sum()):
        raise TaskError(
            f"examples of {settings.length} tokens do not fit in the text's stretches, of which the longest has "
            f"{int(sizes.max())}: use a length of at most {int(sizes.max()) - 1}."
        )
    flat = torch.tensor([token for row in rows for token in row])
    return _Ids(flat.to(device), (sizes.cumsum(0)).to(device), windows.cumsum(0).to(device))


def _encode(text: str, settings: DocumentationTextSettings) -> list[int]:
    if settings.vocabulary == "byte_pairs":
        return byte_pair_tokenizer(settings.byte_pairs).encode(text).ids
    return [_PLACES.get(character, len(_CHARACTERS)) for character in text]


class DocumentationText(SyntheticTask[DocumentationTextSettings]):
    """The next character, or byte pair, of Python's documentation::

        tokens    R  e  t  u  r  n     t  h  e     l  i  s
        targets   e  t  u  r  n     t  h  e     l  i  s  t

    The text is the language reference and the docstrings of about sixty modules, which come with every Python; nothing
    is downloaded. It differs between versions of Python (see `text_hash`), so figures compare under one version only.
    It is cut into stretches of 2,048 characters; every tenth is held out, and an example lies inside one stretch.
    Accuracy is the share of tokens guessed right; `loss` is in nats a token.
    """

    settings_type: ClassVar[type[Config]] = DocumentationTextSettings

    @property
    def d_vocab(self) -> int:
        """Characters and one id for all others, or byte pairs."""
        return len(_CHARACTERS) + 1 if self.settings.vocabulary == "characters" else self.settings.byte_pairs

    @property
    def length(self) -> int:
        """Positions."""
        return self.settings.length

    @property
    def held_out(self) -> SyntheticTask[DocumentationTextSettings]:
        """The same on the stretches that are held out."""
        return self.changed(split="held_out")

    def batch(self, n: int, generator: torch.Generator) -> SyntheticBatch:
        """``n`` windows, all equally likely."""
        held = self._ids(generator.device)
        total = self._windows
        drawn = draw_integers((n,), 0, total - 1, generator)
        stretch = torch.searchsorted(held.windows, drawn, right=True)
        # counted from the end of its stretch, the window's first token lies where its number lies from its last window
        first = held.ends[stretch] - self.length - (held.windows[stretch] - drawn)
        text = held.ids[first[:, None] + torch.arange(self.length + 1, device=first.device)]
        return SyntheticBatch(text[:, :-1], text[:, 1:])

    def _ids(self, device: torch.device) -> _Ids:
        return _ids(self.settings.model_dump_json(), device)

    @property
    def _windows(self) -> int:
        """Different examples."""
        return int(self._ids(torch.device("cpu")).windows[-1])

    def decode(self, ids: Int[Tensor, " T"]) -> str:
        """The text of ids; a character that has none of its own is shown as a question mark."""
        if self.settings.vocabulary == "byte_pairs":
            return byte_pair_tokenizer(self.settings.byte_pairs).decode(ids.tolist())
        return "".join((_CHARACTERS + "?")[token] for token in ids.tolist())
