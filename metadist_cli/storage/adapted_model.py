"""An adapted model as a file of its own: the whole way from raw rows to predictions, without the run and its data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metadist_cli import config as configs
from metadist_cli.config.schema import Baseline
from metadist_cli.core import files
from metadist_cli.core.errors import Problem
from metadist_cli.core.tree import Params, part, prefixed
from metadist_cli.data.new_rows import as_inputs, rows_in_memory
from metadist_cli.data.preprocessing import Preprocessing, read_preprocessing
from metadist_cli.experiment import Experiment
from metadist_cli.learners.types import Adapted
from metadist_cli.models import MODELS, Model
from metadist_cli.models.types import in_bf16

_LIMIT = 16 << 30
_WHERE = "load the adapted.safetensors that finetune wrote"


class AdaptedModel(NamedTuple):
    """A model that has adapted to one task.

    Each row is computed alone, so that its prediction has the same bits whichever rows are beside it. With
    `norm: batch` it is computed together with the task's support, which the file then holds, as in the evaluation; or
    with `finetune.transductive`, together with all rows.
    """

    preprocessing: Preprocessing
    params: Params  # params/NAME and stats/NAME; support: (n, *shape) stored inputs, where a model needs them
    header: dict[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the outputs; () for a regression."""
        return self.preprocessing.classes

    def outputs(self, rows: Any) -> np.ndarray:
        """Raw outputs (n, outputs) of the network.

        Args:
            rows: in the data set's own columns and units: a mapping of columns by name, such as a data frame; or an
                array (n, *shape) of features in their order (uint8 images 0..255, say).

        Raises:
            Problem: the rows do not fit the data set.
        """
        return self.raw(as_inputs(rows_in_memory(rows, self.preprocessing), self.preprocessing))

    def probabilities(self, rows: Any) -> np.ndarray:
        """(n, classes) float32, of the classes in the order of `classes`. rows: as for `outputs`."""
        return probabilities(self.outputs(rows))

    def predict(self, rows: Any) -> np.ndarray:
        """Class names (n,), or values (n, targets) in the data set's units. rows: as for `outputs`."""
        out = self.outputs(rows)
        return np.array(self.classes)[out.argmax(-1)] if self.classes else self.preprocessing.predictions(out)

    def raw(self, inputs: np.ndarray) -> np.ndarray:
        """(n, outputs) of inputs (n, *shape) that are scaled, but not yet divided."""
        model, params, stats = network(self.header), part(self.params, "params"), part(self.params, "stats")
        support = self.params.get("support")

        def apply(x: Tensor) -> Tensor:
            x = x.float() / self.preprocessing.divide
            return model.apply(params, stats, x, False, torch.zeros((), dtype=torch.int64))[0]

        x = torch.from_numpy(np.require(inputs, requirements=["C", "W"]))
        with torch.no_grad(), one_thread():
            if self.header["together"]:
                return apply(x).numpy()
            alone = [row[None] if support is None else torch.cat([support.float(), row[None].float()]) for row in x]
            return torch.stack([apply(rows)[-1] for rows in alone]).numpy()


def probabilities(out: np.ndarray) -> np.ndarray:
    """Softmax of outputs (n, classes), float32, of each row alone."""
    return np.stack([torch.from_numpy(row).softmax(-1).numpy() for row in out])


@contextmanager
def one_thread() -> Iterator[None]:
    """Another number of threads may give other last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pack_adapted(
    experiment: Experiment, adapted: Adapted, preprocessing: Preprocessing, support: Tensor, source: str
) -> bytes:
    """The bytes of an adapted model.

    Args:
        experiment: with the model as it is for this task.
        adapted: to the task.
        preprocessing: of the task's rows, with the names of its classes.
        support: (n, *shape) inputs as stored, kept only where predictions depend on them.
        source: SHA-256 of the global checkpoint that it started from.
    """
    config, model = experiment.config, experiment.model
    header = {
        "format": 2,
        "model": config.model.model_dump(mode="json"),
        "outputs": model.outputs,
        "bf16": config.execution.precision == "bf16",
        "together": model.mixes and config.finetune.transductive,
        "preprocessing": preprocessing.model_dump(mode="json"),
        "global": source,
    }
    tensors = {k: v.detach().cpu() for k, v in prefixed(params=adapted.params, stats=adapted.stats).items()}
    if model.mixes and not header["together"]:
        tensors["support"] = support.cpu()
    return files.pack(tensors, header)


def model_file(path: Path) -> Path:
    """The file of an adapted model that a user names, perhaps by its folder."""
    return path / "adapted.safetensors" if path.is_dir() else path


def load_adapted(path: str | Path) -> AdaptedModel:
    """Read an adapted model. Raises Problem(DATA) if the file is damaged or not an adapted model."""
    data = files.read(path, _LIMIT, "adapted model")
    if Path(path).suffix != ".safetensors":
        raise Problem("this is not an adapted model", str(path), _WHERE)
    return unpack_adapted(data, str(path))


def unpack_adapted(data: bytes, where: str) -> AdaptedModel:
    """The same of the file's bytes. where: the file, for messages."""
    tensors, header = files.unpack(data, where)
    if header.get("format") == 1 and "divide" in header:
        message = "an earlier version of metadist wrote this model, without its preprocessing"
        raise Problem(message, where, "run metadist finetune again")
    if header.get("format") != 2 or not isinstance(header.get("preprocessing"), dict):
        raise Problem("this is not an adapted model", where, _WHERE)
    by = read_preprocessing(header["preprocessing"], where)
    try:  # a stranger may have made the header
        model = network(header)
        with torch.device("meta"):  # it may ask for any size: shapes alone, no memory
            params, stats = model.init(torch.Generator())
        usable = len(by.classes) in ((0,) if by.kind == "regression" else (header["outputs"],))
        usable &= by.scale != "node" and type(header["together"]) is type(header["bf16"]) is bool
        usable &= len(by.target_mean) in (0, header["outputs"])
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
        OverflowError,
        Problem,
    ):  # made by a stranger
        params, stats, usable = {}, {}, False
    if not usable:
        raise Problem("this is not an adapted model", where, _WHERE)
    wanted = prefixed(params=params, stats=stats)
    if model.mixes and not header["together"] and "support" in tensors:
        found = tensors["support"]
        kind = found.dtype if found.dtype == torch.uint8 else torch.float32
        wanted["support"] = torch.empty((len(found) if found.ndim else 1, *by.shape), dtype=kind, device="meta")
    elif model.mixes and not header["together"]:
        raise Problem("the support that this model needs is missing", where, "run metadist finetune again")
    files.check(tensors, wanted, where)
    return AdaptedModel(by, tensors, header)


def network(header: dict[str, Any]) -> Model:
    """The network that a header describes. Raises ValueError for options that a config could not have."""
    section = Baseline.model_validate({"model": header["model"]}).model
    if section is None or type(header["outputs"]) is not int or header["outputs"] < 1:
        raise ValueError("the header describes no network")
    model = configs.build(section, MODELS, tuple(header["preprocessing"]["shape"]), header["outputs"])
    return in_bf16(model) if header["bf16"] else model
