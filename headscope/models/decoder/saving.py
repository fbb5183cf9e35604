"""A decoder as one safetensors file, its settings as JSON in the file's metadata; no pickle."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from headscope.errors import HeadscopeError, ModelError
from headscope.models.decoder.config import DecoderConfig
from headscope.models.decoder.decoder import Decoder

FILE_NAME = "decoder.safetensors"
_FORMAT = "headscope-decoder-1"


def save_decoder(model: Decoder, path: str | Path, *, bf16: bool = False) -> Path:
    """Write a model to a file, or to ``decoder.safetensors`` in a folder; returns the file.

    Args:
        model: its weights may lie on any device.
        path: a name that ends in ``.safetensors``, or a folder, which is made where there is none.
        bf16: numbers are kept as bfloat16, in half the space: 8 bits of each mantissa.
    """
    file = Path(path)
    file = file if file.suffix == ".safetensors" else file / FILE_NAME
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: part.detach().cpu().contiguous() for name, part in model.state_dict().items()}
    if bf16:
        tensors = {name: part.bfloat16() if part.is_floating_point() else part for name, part in tensors.items()}
    partial = file.with_name(file.name + ".tmp")
    save_file(tensors, partial, metadata={"format": _FORMAT, "config": model.config.model_dump_json()})
    partial.replace(file)
    return file


def load_decoder(path: str | Path) -> Decoder:
    """The model of a file that `save_decoder` wrote, on the CPU, in evaluation mode.

    Weights have the dtype they were saved in; bfloat16 becomes float32.

    Raises:
        ModelError: for a path that holds no such file, and for a file that is damaged or of another kind.
    """
    file = Path(path)
    file = file / FILE_NAME if file.is_dir() else file
    if not file.is_file():
        raise ModelError(f"there is no decoder at {str(path)!r}: give a file or a folder that save_decoder wrote.")
    config, tensors = _read(file)
    try:
        model = Decoder(DecoderConfig.parse(config))
    except HeadscopeError as error:
        raise ModelError(f"the settings in {str(file)!r} make no decoder: {error}") from None
    except (RuntimeError, MemoryError) as error:
        raise ModelError(f"the decoder in {str(file)!r} cannot be built: {error}") from None
    _check_names(file, model, tensors)
    model.to(_dtype(tensors))
    model.load_state_dict(tensors)
    return model.eval()


def _read(file: Path) -> tuple[object, dict[str, torch.Tensor]]:
    try:
        with safe_open(file, framework="pt") as opened:  # pyright: ignore[reportNoOverloadImplementation]
            metadata = opened.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise ModelError(f"{str(file)!r} holds no decoder of Headscope: its format is not {_FORMAT!r}.")
            return json.loads(metadata["config"]), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise ModelError(f"{str(file)!r} cannot be read as a decoder: {error}") from None


def _check_names(file: Path, model: Decoder, tensors: dict[str, torch.Tensor]) -> None:
    wanted = model.state_dict()
    missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if missing or extra:
        names = ", ".join([f"{name} is missing" for name in missing] + [f"{name} is not known" for name in extra][:3])
        raise ModelError(f"the tensors in {str(file)!r} are not those of its settings: {names}.")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            shapes = f"{tuple(tensor.shape)} and not {tuple(wanted[name].shape)}"
            raise ModelError(f"the tensor {name} in {str(file)!r} has shape {shapes}.")


def _dtype(tensors: dict[str, torch.Tensor]) -> torch.dtype:
    found = tensors["W_E"].dtype
    return torch.float32 if found == torch.bfloat16 else found
