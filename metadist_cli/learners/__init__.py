"""The learning algorithms, one file each. To add one, write a file that returns a Learner and register it here."""

from collections.abc import Callable

from metadist_cli.learners.anil import anil
from metadist_cli.learners.maml import maml
from metadist_cli.learners.meta_sgd import meta_sgd
from metadist_cli.learners.prototypical import prototypical
from metadist_cli.learners.reptile import reptile
from metadist_cli.learners.ridge import ridge
from metadist_cli.learners.supervised import supervised
from metadist_cli.learners.svm import svm
from metadist_cli.learners.types import Learner

LEARNERS: dict[str, Callable[..., Learner]] = {
    "maml": maml,
    "anil": anil,
    "meta_sgd": meta_sgd,
    "reptile": reptile,
    "prototypical": prototypical,
    "ridge": ridge,
    "svm": svm,
    "supervised": supervised,
}
WHOLE_EPISODE = frozenset({"reptile", "supervised"})  # train on support and query as one set, so query may be 0
