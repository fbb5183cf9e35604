"""Trainings of attention variants, by the question that each answers.

    python -m benchmarks.variant_studies                       what there is
    python -m benchmarks.variant_studies zoo-recall depth --out runs --workers 8

Every study is a few `headscope train` commands; `python -m benchmarks.variant_tables RUN ...` prints the tables.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from dataclasses import dataclass

_HEADSCOPE = "from app.cli import main; main()"
_LEARNED = "--option decoder.position=learned"
_SMALL = "--option task.d_vocab=64 --option task.length=32 --option task.pairs=4"
_QUICK = (
    "softmax,off-by-one,learned-sink,sigmoid,relu,relu-squared,lssa,fox,stick-breaking,entmax,differential,mem-kv,"
    "sliding-window,linear,based,rebased,cottention,retention,mamba2,delta,gated-delta,mlstm,titans-linear,mingru,aaren,"
    "routing,landmark,infini,top-keys,polynomial"
)
_SLOW = "hedgehog,latte,gla,kda,rwkv7,rwkv4,h3,hyena,base-conv"
"""A matrix for every channel, or many features: better on a GPU."""
_FIXED = "linear,based,retention,gla,mamba2,delta,gated-delta,sliding-window,h3,hyena"


@dataclass(frozen=True)
class Study:
    """A question.

    Attributes:
        asks: what it asks, for the list.
        commands: options of `headscope train`, a run each.
    """

    asks: str
    commands: tuple[str, ...]


def _recall(pairs: int, width: int, *, rates: str = "0.003,0.01", variant: str = f"softmax,{_FIXED}") -> str:
    sizes = f"--option task.d_vocab=1024 --option task.length=128 --option task.pairs={pairs}"
    return (
        f"mqar --variants {variant} --widths {width} --rates {rates} {sizes} {_LEARNED} --option decoder.conv=4 "
        "--steps 2000 --set evaluate_every=100"
    )


def _zoo_recall(names: str) -> str:
    return (
        f"mqar --variants {names} --rates 0.003,0.01 {_SMALL} {_LEARNED} --option decoder.embed_std=1 "
        "--steps 1500 --pictures 6"
    )


def _hard(names: str, *, position: str) -> str:
    return (
        f"mqar --variants {names} --widths 128 --rates 0.0022 --option task.d_vocab=8192 "
        f"--option task.length=512 --option task.pairs=64 --option decoder.position={position} --steps 8000 "
        "--set evaluate_every=250 --set weights=false"
    )


def _backcopy(names: str, *, norm: bool) -> str:
    return (
        f"bigram-backcopy --variants {names} --layers 1 --rates 0.003 --steps 1500 {_LEARNED} "
        f"--option decoder.output_norm={str(norm).lower()} --pictures 6 --set stop_at=2 --set evaluate_every=250"
    )


def _emergence(names: str, *, classes: int, bursts: int) -> str:
    return (
        f"in-context-classification --variants {names} --widths 128 --rates 0.001,0.003 --batch 128 "
        f"--option task.classes={classes} --option task.burstiness={bursts} --option decoder.position=none "
        "--steps 5000 --pictures 12 --set evaluate_every=100 --set evaluated=512 --set stop_at=2"
    )


STUDIES = {
    "zoo-recall": Study(
        "which variants recall (vocabulary 64, 32 tokens, 4 pairs), and by which heads; the shipped checkpoints",
        (_zoo_recall(_QUICK),),
    ),
    "zoo-recall-slow": Study("the same of variants that are slow on a CPU", (_zoo_recall(_SLOW),)),
    "zoo-backcopy": Study(
        "which variants grow sinks (Bigram-Backcopy, one layer); the shipped checkpoints",
        (
            f"bigram-backcopy --variants {_QUICK} --layers 1 --rates 0.003,0.01 {_LEARNED} --steps 1500 --pictures 6 "
            "--set stop_at=2 --set evaluate_every=250",
        ),
    ),
    "circuits": Study(
        "by which of two circuits each normaliser recalls, over ten seeds",
        (
            "mqar --variants softmax,sigmoid,relu,relu-squared,stick-breaking,linear "
            f"--rates 0.003,0.01 --seeds 10 {_SMALL} {_LEARNED} --steps 1500",
        ),
    ),
    "depth": Study(
        "whether one layer suffices, with and without a short convolution",
        tuple(
            f"mqar --variants softmax,sigmoid,linear,delta --layers {layers} --rates 0.003,0.01 {_SMALL} --steps 1500 "
            f"{_LEARNED} --option decoder.conv={conv}"
            for layers in (1, 2)
            for conv in (0, 4)
        ),
    ),
    "pairs": Study(
        "recall against the number of pairs at a fixed width, with a short convolution",
        tuple(_recall(pairs, 64) for pairs in (8, 16, 32)),
    ),
    "state": Study(
        "recall against the size of the state, at 32 pairs, with a short convolution",
        tuple(_recall(32, width) for width in (32, 128)),
    ),
    "small-state": Study(
        "recall against the size of the state, small enough for a laptop: 8 pairs in 32 tokens",
        (
            "mqar --variants softmax,based,linear,retention,mamba2,delta,gated-delta,sliding-window --widths 8,16,32 "
            "--rates 0.003,0.01 --option task.d_vocab=64 --option task.length=32 --option task.pairs=8 "
            f"{_LEARNED} --option decoder.conv=4 --steps 2000 --set evaluate_every=100",
        ),
    ),
    "hardest": Study(
        "zoology's hardest cell: 512 tokens, 64 pairs, vocabulary 8192",
        (
            _hard("softmax,based,linear,sigmoid,fox", position="learned"),
            _hard("delta,gated-delta,mamba2,retention,hyena,base-conv", position="none"),
        ),
    ),
    "twice": Study(
        "whether reading the pairs twice helps (JRT), at 8 pairs and a small state",
        tuple(
            f"mqar{twice} --variants linear,retention,mamba2,gated-delta --widths 32 --rates 0.003,0.01 "
            "--option task.d_vocab=256 --option task.length=64 --option task.pairs=8 --steps 1500 "
            f"{_LEARNED} --option decoder.conv=4"
            for twice in ("", "-twice")
        ),
    ),
    "forgetting": Study(
        "whether the delta rule overwrites where sums cannot",
        tuple(
            f"{task} --variants softmax,linear,gla,mamba2,delta,gated-delta --widths 32 --rates 0.003,0.01 "
            "--option task.d_vocab=256 --option task.length=64 --option task.pairs=8 --steps 2500 "
            f"{_LEARNED} --option decoder.conv=4"
            for task in ("mqar", "mqar-forgetting")
        ),
    ),
    "lengths": Study(
        "copying strings longer than those of training, by position encoding",
        (
            "copying --variants nope,alibi,rope --layers 2 --heads 4 --rates 0.001,0.003 --option task.letters=26 "
            "--option task.longest=24 --steps 2500",
        ),
    ),
    "emergence": Study(
        "when in-context classification jumps, by burstiness and number of classes, and under other normalisers",
        (
            _emergence("softmax,sigmoid,relu,linear", classes=8192, bursts=4),
            _emergence("softmax", classes=8192, bursts=1),
            _emergence("softmax", classes=512, bursts=4),
            _emergence("softmax", classes=512, bursts=1),
        ),
    ),
    "regression": Study(
        "whether heads trained on linear regression come to one step of gradient descent",
        (
            "linear-regression --variants softmax,linear-raw,sigmoid --layers 1 --heads 4 --rates 0.003,0.01 "
            "--option decoder.position=none --steps 5000 --pictures 12 --set evaluate_every=250 --set stop_at=2",
        ),
    ),
    "sinks": Study(
        "sinks and drained values by normaliser, with and without an output norm",
        tuple(_backcopy("softmax,off-by-one,fox,sigmoid,relu,linear", norm=norm) for norm in (False, True)),
    ),
}


def main() -> None:
    """List the studies, or run those named, one command after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", choices=[*STUDIES, []], metavar="STUDY")
    parser.add_argument("--out", default="runs")
    parser.add_argument("--workers", default="2")
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args()
    if not asked.studies:
        for name, study in STUDIES.items():
            print(f"{name}: {study.asks}", *(f"    headscope train {line}" for line in study.commands), sep="\n")
    for name in asked.studies:
        for line in STUDIES[name].commands:
            extra = ["--workers", asked.workers, "--device", asked.device, "--out", asked.out]
            subprocess.run([sys.executable, "-c", _HEADSCOPE, "train", *shlex.split(line), *extra], check=True)


if __name__ == "__main__":
    main()
