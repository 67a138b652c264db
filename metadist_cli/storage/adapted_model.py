"""An adapted model as a file of its own: usable without the run, the data and the config."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metadist_cli.config import Config
from metadist_cli.core import files
from metadist_cli.core.errors import Problem
from metadist_cli.core.tree import part, prefixed
from metadist_cli.learners.types import Adapted
from metadist_cli.models import MODELS, Model
from metadist_cli.partition.spec import Spec

_LIMIT = 16 << 30


class AdaptedModel(NamedTuple):
    """A model that has adapted to one task. classes: names of its outputs, () for a regression."""

    classes: tuple[str, ...]
    params: dict[str, Tensor]
    header: dict[str, Any]

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """Raw outputs (n, outputs) for rows x (n, ...) on the scale of the data set (uint8 images 0..255, say).

        With `norm: batch` the rows of x are normalised together, so that an output depends on the other rows.
        Raises Problem if the rows' shape is not the model's.
        """
        rows = torch.as_tensor(np.asarray(x))
        shape = tuple(self.header["shape"])
        if tuple(rows.shape[1:]) != shape:
            raise Problem(f"rows of shape {tuple(rows.shape[1:])}, not {shape}", "x", "reshape them")
        if not torch.isfinite(rows).all():
            raise Problem("rows hold values that are not finite", "x", "leave them out, or fill them in")
        model = _model(self.header)
        params, stats = part(self.params, "params"), part(self.params, "stats")
        with torch.no_grad():
            scaled = rows.float() / self.header["divide"]
            return model.apply(params, stats, scaled, False, torch.zeros((), dtype=torch.int64))[0].numpy()

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Class names (n,), or values (n, targets) of a regression in the units of the data."""
        out = self.outputs(x)
        if self.classes:
            return np.array(self.classes)[out.argmax(-1)]
        by = [np.array(self.header[key]) for key in ("target_deviation", "target_mean") if self.header.get(key)]
        return (out * by[0] + by[1]).astype(np.float32) if by else out


def pack_adapted(
    config: Config, spec: Spec, outputs: int, adapted: Adapted, classes: tuple[str, ...], source: str
) -> bytes:
    """The bytes of an adapted model; source: SHA-256 of the global checkpoint that it started from."""
    header = {
        "format": 1,
        "model": config.model.model_dump(mode="json"),
        "shape": list(spec.shape),
        "outputs": outputs,
        "divide": spec.divide,
        "classes": list(classes),
        "target_mean": list(spec.target_mean),
        "target_deviation": list(spec.target_deviation),
        "global": source,
    }
    tensors = {k: v.detach().cpu() for k, v in prefixed(params=adapted.params, stats=adapted.stats).items()}
    return files.pack(tensors, header)


def load_adapted(path: str | Path) -> AdaptedModel:
    """Read an adapted model. Raises Problem(DATA) if the file is damaged or not an adapted model."""
    tensors, header = files.unpack(files.read(path, _LIMIT, "adapted model"), str(path))
    try:
        params, stats = _model(header).init(torch.Generator().manual_seed(0))
        usable = header["divide"] > 0 and len(header["classes"]) in (0, header["outputs"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError):  # a header made by a stranger
        params, stats, usable = {}, {}, False
    if not usable:
        raise Problem("this is not an adapted model", str(path), "load the adapted.safetensors that finetune wrote")
    files.check(tensors, prefixed(params=params, stats=stats), str(path))
    return AdaptedModel(tuple(header["classes"]), tensors, header)


def _model(header: dict[str, Any]) -> Model:
    """The network that a header describes."""
    options = {k: v for k, v in header["model"].items() if k != "name"}
    return MODELS[header["model"]["name"]](tuple(header["shape"]), header["outputs"], **options)
