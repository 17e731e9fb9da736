"""Checkpoints: folders that are whole or not there, and whose every byte is checked when they are read."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from foveal.data.writing import explained, sync, write_through

FORMAT = 1
"""Version of what stands in a checkpoint; a newer one is refused."""

_WEIGHTS, _STATE, _MANIFEST = "weights.safetensors", "state.pt", "manifest.json"


class CheckpointError(Exception):
    """A checkpoint that is damaged or does not belong here; the message names the file and the cure."""


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint as it was read: `weights` to use, `state` to go on training, `manifest` about both."""

    folder: Path
    weights: dict[str, Tensor]
    state: dict[str, Any]
    manifest: dict[str, Any]


def save(
    folder: Path, weights: Mapping[str, Tensor], state: dict[str, Any], about: dict[str, Any], keep: Path | None = None
) -> Path:
    """Add a checkpoint to a folder of checkpoints and remove older ones.

    Args:
        folder: holds numbered checkpoints; made when missing.
        weights: what a user of the network needs, name by name.
        state: what training needs to go on: tensors, numbers, text, None, lists and dicts of those.
        about: JSON values for the manifest.
        keep: the last good checkpoint, which stays beside the new one.

    Returns:
        The folder of the new checkpoint.

    Raises:
        OSError: it could not be written; what was there before is untouched.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    # A copy each: safetensors refuses tensors that share memory, as those of a shared module do.
    copies = {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in weights.items()
    }
    files = {_WEIGHTS: safetensors.torch.save(copies), _STATE: buffer.getvalue()}
    sums = {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in files.items()}
    files[_MANIFEST] = _manifest({"format": FORMAT, **about, "files": sums})
    temporary = folder / ".saving"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / f"{max([_number(path) for path in _numbered(folder)], default=0) + 1:06d}"
        for leftover in folder.glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir()
        for name, data in files.items():
            write_through(temporary / name, data)
        sync(temporary)
        os.replace(temporary, target)
        sync(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise explained(error, folder) from error
    for old in _numbered(folder):
        if old not in (target, keep):
            # First out of sight: a removal that is cut short must not leave half a checkpoint behind.
            hidden = old.with_name(f".{old.name}")
            os.replace(old, hidden)
            shutil.rmtree(hidden, ignore_errors=True)
    return target


def load(folder: Path) -> Checkpoint:
    """Read one checkpoint, every byte checked.

    Raises:
        CheckpointError: anything about it is not as it was saved.
    """
    manifest = _read_manifest(folder)
    weights = _read_weights(folder, manifest)
    data = _read(folder, _STATE, manifest)
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{folder / _STATE} holds what foveal never saves: {error}") from error
    return Checkpoint(folder, weights, state, manifest)


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest good checkpoint of a folder; None when there is none at all.

    A damaged one is passed over with a warning.

    Raises:
        CheckpointError: there are checkpoints, but none of them is good.
    """
    reasons = []
    for path in reversed(_numbered(folder)):
        try:
            checkpoint = load(path)
        except CheckpointError as error:
            reasons.append(error)
            continue
        for reason in reasons:
            warnings.warn(f"{reason}; going back to {path}", RuntimeWarning, stacklevel=2)
        return checkpoint
    if reasons:
        raise CheckpointError(f"no checkpoint in {folder} can be used; delete that folder to start again. {reasons[0]}")
    return None


def load_weights(folder: Path, model: nn.Module) -> dict[str, Any]:
    """Put saved weights into a network.

    Args:
        folder: a checkpoint, or a folder of numbered ones (the newest good one is taken).
        model: the same network as the one saved.

    Returns:
        The checkpoint's manifest.

    Raises:
        CheckpointError: damaged, missing, or of another network.
    """
    folder = Path(folder)
    if (folder / _MANIFEST).exists():
        manifest = _read_manifest(folder)
        weights = _read_weights(folder, manifest)
    else:
        checkpoint = load_newest(folder)
        if checkpoint is None:
            raise CheckpointError(f"no checkpoint in {folder}; train first, or name the folder of a run")
        folder, weights, manifest = checkpoint.folder, checkpoint.weights, checkpoint.manifest
    put_weights(weights, model, folder)
    return manifest


def put_weights(weights: Mapping[str, Tensor], model: nn.Module, folder: Path) -> None:
    """Load `weights`, which came from `folder`, into a network that must have the same names and shapes."""
    own = model.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in weights]
    wrong += [f"{name} is not in this network" for name in weights if name not in own]
    for name in (name for name in own if name in weights):
        saved, here = ([list(tensor.shape), tensor.dtype] for tensor in (weights[name], own[name]))
        if saved != here:
            wrong.append(f"{name} is {saved[0]} {saved[1]}, here it is {here[0]} {here[1]}")
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(f"{folder / _WEIGHTS} holds the weights of another network: {'; '.join(wrong[:3])}{more}")
    model.load_state_dict(dict(weights))


def _number(path: Path) -> int:
    return int(path.name)


def _numbered(folder: Path) -> list[Path]:
    """Checkpoints of a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if re.fullmatch(r"[0-9]{6,12}", path.name)), key=_number)


def _manifest(content: dict[str, Any]) -> bytes:
    """A manifest with its own sum in it. One content has one spelling, so any other byte is damage."""
    plain = json.dumps(content, indent=1).encode()
    return json.dumps({**content, "sha256": hashlib.sha256(plain).hexdigest()}, indent=1).encode()


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / _MANIFEST
    try:
        data = path.read_bytes()
        manifest = json.loads(data)
        sound = _manifest({key: value for key, value in manifest.items() if key != "sha256"}) == data
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; {_CURE}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise CheckpointError(f"{path} is damaged; {_CURE}")
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {manifest.get('format')}, this foveal reads {FORMAT}; update foveal")
    return manifest


_CURE = "delete that checkpoint to go on from the one before it, or restore it from a copy"


def _read(folder: Path, name: str, manifest: dict[str, Any]) -> bytes:
    """The bytes of one file of a checkpoint, if they are those that were saved."""
    path = folder / name
    try:
        expected = manifest["files"][name]
        size = path.stat().st_size
        data = path.read_bytes() if size == expected["bytes"] else b""
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing; {_CURE}") from None
    except (KeyError, TypeError):
        raise CheckpointError(f"{folder / _MANIFEST} does not tell the size and sha256 of {name}; {_CURE}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if size != expected["bytes"]:
        raise CheckpointError(f"{path} is damaged: {size} bytes for {expected['bytes']}; {_CURE}")
    if hashlib.sha256(data).hexdigest() != expected["sha256"]:
        raise CheckpointError(f"{path} is damaged: its sha256 is not the one saved; {_CURE}")
    return data


def _read_weights(folder: Path, manifest: dict[str, Any]) -> dict[str, Tensor]:
    data = _read(folder, _WEIGHTS, manifest)
    try:
        return safetensors.torch.load(data)
    except Exception as error:
        raise CheckpointError(f"{folder / _WEIGHTS} is no safetensors file: {error}") from error
