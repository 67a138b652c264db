"""The data sets, one file each; a builder's keyword-only parameters are its options."""

from collections.abc import Callable

from metadist_cli.data.sets.arrays import arrays
from metadist_cli.data.sets.digits import digits
from metadist_cli.data.sets.heart import heart
from metadist_cli.data.sets.image_folder import image_folder
from metadist_cli.data.sets.leaf import leaf
from metadist_cli.data.sets.omniglot import omniglot
from metadist_cli.data.sets.sinusoid import sinusoid
from metadist_cli.data.sets.synthetic import synthetic
from metadist_cli.data.sets.table import table
from metadist_cli.data.sets.text import text
from metadist_cli.data.types import Dataset

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
