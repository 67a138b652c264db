"""The aggregation rules, by name. A new one: one file that returns an Aggregator, one line here."""

from collections.abc import Callable

from metadist_cli.federated.aggregators.mean import mean
from metadist_cli.federated.aggregators.types import Aggregator

AGGREGATORS: dict[str, Callable[..., Aggregator]] = {
    "mean": mean,
}
