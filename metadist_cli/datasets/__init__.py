"""Data sets by their name in the config; a builder's keyword-only parameters are its options."""

from collections.abc import Callable

from metadist_cli.datasets.digits import digits
from metadist_cli.datasets.heart import heart
from metadist_cli.datasets.omniglot import omniglot
from metadist_cli.datasets.sinusoid import sinusoid
from metadist_cli.datasets.synthetic import synthetic
from metadist_cli.datasets.types import Dataset

DATASETS: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "heart": heart,
    "omniglot": omniglot,
    "sinusoid": sinusoid,
    "synthetic": synthetic,
}
