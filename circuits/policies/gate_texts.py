"""The texts that DuoAttention's gates are trained on: passkeys in a haystack, of many lengths."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from circuits.policies.search_settings import PasskeySettings
from headscope.models.protocol import HookedModel
from headscope.tasks.answers import AnswerBatch
from headscope.tasks.passkeys import VAULT, PasskeyForm, build_passkeys, passkey_lengths


def passkey_batches(
    model: HookedModel,
    haystack: str,
    settings: PasskeySettings | None = None,
    *,
    start: int = 0,
    form: PasskeyForm = VAULT,
) -> Iterator[AnswerBatch]:
    """Batches of passkeys in a haystack without end, from step ``start`` on; each step draws from its own generator.

    Args:
        model: the model.
        haystack: text to hide passkeys in.
        settings: lengths and sizes.
        start: the step that the first batch is for: a training taken up again sees what it would have seen.
        form: how passkeys are told, for models of few words.

    Raises:
        TaskError: if the passkeys do not fit the lengths, or the haystack is too short; see `build_passkeys`.
    """
    settings = settings or PasskeySettings()
    lengths = passkey_lengths(settings.shortest, settings.longest, settings.lengths)
    while True:
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + start)
        length = lengths[int(torch.randint(0, len(lengths), (1,), generator=generator))]
        yield build_passkeys(
            model,
            haystack,
            length=length,
            n=settings.batch,
            generator=generator,
            passkeys=settings.passkeys,
            words=settings.words,
            form=form,
        )
        start += 1
