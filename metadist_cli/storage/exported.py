"""An adapted model as one graph from rows of numbers to predictions, in the formats that devices run.

torch.export (https://docs.pytorch.org/docs/stable/export.html) and ONNX (https://onnx.ai). The graph holds the scale,
the filling of missing cells and the unit. Texts and dates become numbers outside: it takes features in their order.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from metadist_cli.core.errors import SYSTEM, Problem
from metadist_cli.core.files import to_json
from metadist_cli.core.tree import part
from metadist_cli.data.preprocessing import Preprocessing, Scale
from metadist_cli.storage.adapted_model import AdaptedModel, network

FORMATS = {"torch": ".pt2", "onnx": ".onnx"}
_ONNX = ("onnx", "onnxscript", "onnxruntime")


class Exported(NamedTuple):
    """A model in a format for devices. run: rows (n, ...) float32 -> predictions, as the file itself computes them."""

    data: bytes
    run: Callable[[np.ndarray], np.ndarray]


class Graph(nn.Module):
    """Rows (n, columns) or (n, *shape) float32 -> probabilities (n, classes), or values (n, targets) in their own unit.

    A table of numbers alone is taken by its columns, NaN where a cell is missing; other rows by their features.
    """

    def __init__(self, adapted: AdaptedModel):
        super().__init__()
        self.by, self.model = adapted.preprocessing, network(adapted.header)
        self.names = list(adapted.params)
        for i, name in enumerate(self.names):
            self.register_buffer(f"leaf{i}", adapted.params[name])
        if isinstance(self.by.scale, Scale):
            shape = (-1, *[1] * (len(self.by.shape) - 1))
            for name in ("mean", "deviation"):
                values = torch.tensor(getattr(self.by.scale, name), dtype=torch.float64)
                self.register_buffer(name, values.reshape(shape))

    def forward(self, rows: Tensor) -> Tensor:
        leaves = {name: getattr(self, f"leaf{i}") for i, name in enumerate(self.names)}
        x = self._scaled(self._features(rows)) / self.by.divide
        if "support" in leaves:
            x = torch.cat([leaves["support"].float() / self.by.divide, x])
        params, stats = part(leaves, "params"), part(leaves, "stats")
        out = self.model.apply(params, stats, x, False, torch.zeros((), dtype=torch.int64))[0]
        out = out[-1:] if "support" in leaves else out
        return out.softmax(-1) if self.by.classes else self._predictions(out.double()).float()

    def _predictions(self, out: Tensor) -> Tensor:
        mean, deviation = (torch.tensor(v).double() for v in (self.by.target_mean, self.by.target_deviation))
        return (out * deviation + mean if self.by.target_mean else out) * self.by.unit

    def _features(self, rows: Tensor) -> Tensor:
        flagged = [i for i, column in enumerate(self.by.columns) if column.indicator]
        if not (flagged and by_columns(self.by)):
            return rows
        return torch.cat([rows, rows[:, flagged].isnan().float()], dim=1)

    def _scaled(self, x: Tensor) -> Tensor:
        if not isinstance(self.by.scale, Scale):
            return x
        if self.by.scale.by == "fill":
            return torch.where(x.isnan(), self.mean, x.double()).float()  # pyright: ignore[reportCallIssue, reportArgumentType]
        scaled = ((x.double() - self.mean) / self.deviation).float()  # pyright: ignore[reportOperatorIssue]
        scaled = torch.where(scaled.isnan(), 0.0, scaled)
        return scaled if self.by.clip is None else scaled.clamp(-self.by.clip, self.by.clip)


def by_columns(by: Preprocessing) -> bool:
    """Whether the graph takes a table's columns as they are: all of them are numbers."""
    return bool(by.columns) and all(column.kind == "number" for column in by.columns)


def row_shape(by: Preprocessing) -> tuple[int, ...]:
    """Of a row that the graph takes."""
    return (len(by.columns),) if by_columns(by) else by.shape


def export(adapted: AdaptedModel, to: Literal["torch", "onnx"]) -> Exported:
    """The model in a format. Raises Problem where it cannot be exported, or ONNX is not installed."""
    by = adapted.preprocessing
    if by.angle:
        hint = "export a model that finetune adapted to a task of yours: --task"
        raise Problem("the node of this model rotates its images, which is not exported", "MODEL", hint)
    if to == "onnx" and adapted.header["bf16"]:
        hint = "use --format torch, or adapt with execution.precision: float32"
        raise Problem("this model computes in bfloat16, which onnxruntime does not", "--format onnx", hint)
    missing = [name for name in _ONNX if find_spec(name) is None]
    if to == "onnx" and missing:
        *some, last = missing
        message = f"{', '.join(some)} and {last} are not installed" if some else f"{last} is not installed"
        raise Problem(message, "--format onnx", "pip install 'metadist[onnx]', or use --format torch", SYSTEM)
    alone = "support" in adapted.params  # with which a single row is computed
    example = torch.zeros(1 if alone else 3, *row_shape(by))
    shapes = None if alone else {"rows": {0: torch.export.Dim("rows", min=1)}}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells which libraries are not there
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about its own graphs
        program = torch.export.export(Graph(adapted).train(False), (example,), dynamic_shapes=shapes)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # paths of this machine
        return (_torch if to == "torch" else _onnx)(program, _about(by, alone))


def _about(by: Preprocessing, alone: bool) -> str:
    """What a reader of the file needs to know, as JSON."""
    inputs = [column.name for column in by.columns] if by_columns(by) else []
    told = {"classes": list(by.classes), "target": by.target, "columns": inputs, "shape": list(row_shape(by))}
    return to_json({**told, "rows": 1 if alone else "any", "preprocessing": by.model_dump(mode="json")})


def _torch(program: Any, about: str) -> Exported:
    out = io.BytesIO()
    torch.export.save(program, out, extra_files={"metadist.json": about})
    loaded = torch.export.load(io.BytesIO(out.getvalue())).module()  # the bytes just written, never a file
    return Exported(out.getvalue(), lambda rows: loaded(torch.from_numpy(rows)).numpy())


def _onnx(program: Any, about: str) -> Exported:
    import onnxruntime  # pyright: ignore[reportMissingImports]

    made = torch.onnx.export(program, input_names=["rows"], output_names=["predictions"], dynamo=True, verbose=False)
    assert made is not None
    made.model.metadata_props["metadist"] = about
    data = made.model_proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return Exported(data, lambda rows: np.asarray(session.run(None, {"rows": rows})[0]))
