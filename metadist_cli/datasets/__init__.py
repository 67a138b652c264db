"""Data sets by their name in the config; a builder's keyword-only parameters are its options."""

from collections.abc import Callable

from metadist_cli.datasets.arrays import arrays
from metadist_cli.datasets.digits import digits
from metadist_cli.datasets.heart import heart
from metadist_cli.datasets.image_folder import image_folder
from metadist_cli.datasets.leaf import leaf
from metadist_cli.datasets.omniglot import omniglot
from metadist_cli.datasets.sinusoid import sinusoid
from metadist_cli.datasets.synthetic import synthetic
from metadist_cli.datasets.table import table
from metadist_cli.datasets.text import text
from metadist_cli.datasets.types import Dataset

DATASETS: dict[str, Callable[..., Dataset]] = {
    "arrays": arrays,
    "digits": digits,
    "heart": heart,
    "image_folder": image_folder,
    "leaf": leaf,
    "omniglot": omniglot,
    "sinusoid": sinusoid,
    "synthetic": synthetic,
    "table": table,
    "text": text,
}
