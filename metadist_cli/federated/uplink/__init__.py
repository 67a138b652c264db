"""What happens to an update before it leaves a node, by name. A new one: one file with its builder, one line here.

Clipping, noise, compression and masking belong here. `uplink:` in a config lists those to apply, in order.
"""

from collections.abc import Callable

from metadist_cli.federated.uplink.none import none
from metadist_cli.federated.uplink.types import Uplink

UPLINKS: dict[str, Callable[..., Uplink]] = {
    "none": none,
}
