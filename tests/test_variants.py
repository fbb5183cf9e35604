"""The registry of variants: whole, consistent, and told truly."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from app.cli import app
from app.guide.variants_page import PAGE
from app.views.variants import variants_page
from headscope.errors import ConfigError, UnknownNameError
from headscope.mixers.building import mixer_class
from headscope.mixers.registry import Variant, mixer_places, variant, variants
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.decoder import Decoder


def test_the_page_of_the_documentation_is_the_registry() -> None:
    assert PAGE.read_text(encoding="utf-8") == variants_page(), "write it anew: python -m app.guide.variants_page"


@pytest.mark.parametrize("entry", variants().values(), ids=lambda entry: entry.name)
def test_an_entry_says_what_it_is(entry: Variant) -> None:
    assert entry.name == entry.name.lower()
    assert entry.source
    assert entry.equation or entry.status == "left out"
    assert entry.title
    if entry.status == "left out":
        assert len(entry.note) > 20, "the reason"
    if entry.status == "built":
        config = DecoderConfig.parse({"causal": entry.causal} | dict(entry.config))
        kinds = [mixer_class(choice.kind) for choice in config.mixer]
        assert all(kind.causal if entry.causal else kind.bidirectional for kind in kinds)


@pytest.mark.parametrize("entry", [e for e in variants().values() if e.status == "built"], ids=lambda entry: entry.name)
def test_a_decoder_reads_both_ways_if_and_only_if_the_entry_says_so(entry: Variant) -> None:
    def builds(causal: bool) -> bool:
        try:
            Decoder(DecoderConfig.parse({"d_model": 16, "d_vocab": 5} | dict(entry.config) | {"causal": causal}))
        except ConfigError:
            return False
        return True

    assert builds(True) == entry.causal
    assert builds(False) == (entry.bidirectional or not entry.causal)


def test_every_mixer_is_some_variant() -> None:
    configs = [
        DecoderConfig.parse(dict(e.config) | {"causal": e.causal}) for e in variants().values() if e.status == "built"
    ]
    assert {choice.kind for config in configs for choice in config.mixer} == set(mixer_places())


def test_no_two_built_variants_are_the_same_settings() -> None:
    seen: dict[str, str] = {}
    for entry in variants().values():
        if entry.status == "built":
            key = json.dumps([entry.causal, dict(entry.config)], sort_keys=True)
            assert key not in seen, f"{entry.name} is {seen[key]}: make it another name of it"
            seen[key] = entry.name


@pytest.mark.parametrize(
    ("given", "meant"),
    [("fox", "fox"), ("DeltaNet", "delta"), ("gated-deltanet", "gated-delta"), ("CABLE", "fox"), ("Mamba-2", "mamba2")],
)
def test_a_variant_is_found_by_the_names_of_the_literature(given: str, meant: str) -> None:
    assert variant(given).name == meant


def test_an_unknown_variant_suggests_the_nearest_and_lists_no_two_hundred() -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean 'softmax'\? List them: headscope variants\.$"):
        variant("sofmax")


def run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["variants", *words])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_lists_shows_and_prints_plain_data() -> None:
    code, out, _ = run()
    assert code == 0
    assert all(name in out for name in ("softmax", "gated-delta", "alibi"))
    code, out, _ = run("fox")
    assert "log_forget" in out or "exp" in out
    code, out, _ = run("--json")
    assert {entry["name"] for entry in json.loads(out)} == set(variants())
    code, out, _ = run("--family", "positions", "--json")
    assert {entry["family"] for entry in json.loads(out)} == {"positions"}


@pytest.mark.parametrize(
    ("words", "message"),
    [(("nothing-like-it",), "no variant is called"), (("--family", "xyz"), "no family of variants is called 'xyz'")],
    ids=["name", "family"],
)
def test_bad_input_is_one_line(words: tuple[str, ...], message: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
