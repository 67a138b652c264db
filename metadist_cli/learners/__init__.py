"""The learners, by name. A new one: one file that returns a Learner, one line here."""

from collections.abc import Callable

from metadist_cli.learners.maml import maml
from metadist_cli.learners.reptile import reptile
from metadist_cli.learners.supervised import supervised
from metadist_cli.learners.types import Learner

LEARNERS: dict[str, Callable[..., Learner]] = {"maml": maml, "reptile": reptile, "supervised": supervised}
WHOLE_EPISODE = frozenset({"reptile", "supervised"})  # train on support and query together, so query may be 0
