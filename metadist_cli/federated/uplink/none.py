"""Updates sent as they are."""

from metadist_cli.federated.uplink.types import IDENTITY, Uplink


def none() -> Uplink:
    """Send the update as it is."""
    return IDENTITY
