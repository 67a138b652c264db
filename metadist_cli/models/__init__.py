"""The networks, one file each. To add one, write a file that returns a Model and register it here."""

from collections.abc import Callable

from metadist_cli.models.conv1d import conv1d
from metadist_cli.models.conv4 import conv4
from metadist_cli.models.logistic import logistic
from metadist_cli.models.lstm import lstm
from metadist_cli.models.mlp import mlp
from metadist_cli.models.types import Model

MODELS: dict[str, Callable[..., Model]] = {
    "mlp": mlp,
    "conv4": conv4,
    "conv1d": conv1d,
    "lstm": lstm,
    "logistic": logistic,
}
