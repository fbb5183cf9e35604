"""Settings: equal data has an equal hash, and a wrong setting is explained in one line."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, field_validator

from headscope.config import Config, canonical_json, hash8
from headscope.errors import ConfigError


class Needle(Config):
    depth: float = Field(default=0.5, ge=0, le=1)
    text: str = "the secret is 7"


class Settings(Config):
    seed: int = 0
    device: Literal["cpu", "cuda"] = "cpu"
    needles: tuple[Needle, ...] = ()
    lengths: tuple[int, ...] = (64,)
    kinds: Annotated[tuple[Literal["needle", "text"], ...], Field(min_length=1)] = ("text",)

    @field_validator("lengths")
    @classmethod
    def ascend(cls, given: tuple[int, ...]) -> tuple[int, ...]:
        if list(given) != sorted(given):
            raise ValueError("lengths ascend.")
        return given


class Named(Config):
    name: str


def test_hash_is_the_sha256_of_sorted_json_without_blanks() -> None:
    text = '{"depth":0.25,"text":"ü"}'
    assert Needle(depth=0.25, text="ü").hash8() == hashlib.sha256(text.encode()).hexdigest()[:8]


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.floats(allow_nan=False, allow_infinity=False)))
def test_order_of_keys_does_not_change_the_hash(data: dict[str, float]) -> None:
    backwards = dict(reversed(data.items()))
    assert hash8(data) == hash8(backwards)
    assert json.loads(canonical_json(data)) == data


def test_another_value_has_another_hash() -> None:
    assert Settings(seed=1).hash8() != Settings(seed=2).hash8()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().seed = 3  # type: ignore[misc]


def test_settings_survive_json() -> None:
    settings = Settings(needles=(Needle(depth=1),), lengths=(8, 16))
    assert Settings.parse(json.loads(settings.model_dump_json())) == settings


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"sed": 3},
            "there is no setting 'sed' (allowed: device, kinds, lengths, needles, seed). Did you mean 'seed'?",
        ),
        (
            {"needles": [{"depht": 0.5}]},
            "there is no setting 'needles.0.depht' (allowed: depth, text). Did you mean 'depth'?",
        ),
        ({"zzz": 1}, "there is no setting 'zzz' (allowed: device, kinds, lengths, needles, seed)."),
        ({"device": "tpu"}, "the setting 'device' cannot be 'tpu': it should be 'cpu' or 'cuda'."),
        ({"seed": "x"}, "the setting 'seed' cannot be 'x': it should be a valid integer"),
        (
            {"needles": [{"depth": 2}]},
            "the setting 'needles.0.depth' cannot be 2: it should be less than or equal to 1.",
        ),
        ({"lengths": [3, 1]}, "the setting 'lengths' cannot be [3, 1]: lengths ascend."),
        ({"lengths": ["a"]}, "the setting 'lengths' cannot hold 'a': it should be a valid integer"),
        (
            {"kinds": ["neddle"]},
            "the setting 'kinds' cannot hold 'neddle': it should be 'needle' or 'text'. Did you mean 'needle'?",
        ),
        ({"kinds": []}, "the setting 'kinds' is empty: give it at least one value."),
        ({"seed": "x" * 500}, "the setting 'seed' cannot be 'xxx"),
        ([1], "settings cannot be [1]: "),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_wrong_setting_is_named_with_what_was_given_and_what_is_allowed(data: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.parse(data)
    text = str(caught.value)
    assert text.startswith(message)
    assert "\n" not in text
    assert text[-1] in ".?"
    assert text[-2] not in ".?"
    assert len(text) < 300


def test_a_list_of_wrong_values_is_not_told_to_be_too_short_as_well() -> None:
    with pytest.raises(ConfigError) as caught:
        Settings.parse({"kinds": ["foo"]})
    assert str(caught.value) == "the setting 'kinds' cannot hold 'foo': it should be 'needle' or 'text'."


def test_a_missing_setting_is_named_and_several_mistakes_are_told_together() -> None:
    with pytest.raises(ConfigError, match=r"^the setting 'name' is missing\.$"):
        Named.parse({})
    with pytest.raises(ConfigError) as caught:
        Settings.parse({"seed": None, "devise": 1})
    assert "'seed' cannot be None" in str(caught.value)
    assert "Did you mean 'device'?" in str(caught.value)
