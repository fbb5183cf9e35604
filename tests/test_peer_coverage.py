"""Every entry of the registry that names a peer has a comparison in ``tests/peers``; no peer is imported here."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from headscope.mixers.registry import variants

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "tests" / "peers").glob("*.py"))
DECORATORS = {"agrees", "agrees_on_z"}


def compared() -> list[str]:
    """Names in the decorators of comparisons, read off the source."""
    found: list[str] = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            for call in getattr(node, "decorator_list", []):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in DECORATORS:
                    found += [ast.literal_eval(name) for name in call.args]
    return found


def pins(lock: str) -> dict[str, set[str]]:
    """Versions in a lock file, by name."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-zA-Z0-9._-]+)==([^\s;]+)", (ROOT / lock).read_text(), re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


def test_the_entries_that_name_a_peer_are_those_that_are_compared() -> None:
    assert sorted(set(compared())) == sorted(name for name, entry in variants().items() if entry.peer)


def test_no_entry_is_compared_twice() -> None:
    names = compared()
    assert sorted(names) == sorted(set(names))


def test_peers_are_run_with_the_versions_of_the_product() -> None:
    product, peers = pins("requirements.lock"), pins("requirements-peers.lock")
    assert {name for name in product.keys() & peers.keys() if product[name] != peers[name]} == set()
    assert {"torch", "transformers", "numpy"} <= product.keys() & peers.keys()


@pytest.mark.parametrize("name", ["fla-core", "x-transformers", "mambapy", "linformer", "reformer-pytorch"])
def test_a_peer_is_never_a_dependency_of_the_product(name: str) -> None:
    assert name in pins("requirements-peers.lock")
    assert name not in pins("requirements.lock")


def test_the_lock_of_the_peers_is_exact_hashed_and_names_no_place() -> None:
    text = (ROOT / "requirements-peers.lock").read_text()
    entries = re.sub(r"^\s*#.*\n?", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    shape = re.compile(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+(\s*;[^;]+?)?(\s+--hash=sha256:[0-9a-f]{64})+")
    assert [entry for entry in entries if entry.strip() and not shape.fullmatch(entry.strip())] == []
    assert re.findall(r"://|\+cpu|--index-url|--find-links", text) == []
