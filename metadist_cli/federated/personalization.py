"""What belongs to a node and is never averaged: a part of the model, or a whole model of its own.

It is kept in the run directory at its node, survives a restart, and goes with `train --nodes`. A node that took no part
has the part of round 0, or the shared model in Ditto's place. algorithm.py does the work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

from pydantic import Field

from metadist_cli.models.types import HEAD, NORM


class Personal(NamedTuple):
    """parts: beginnings of the names of parameters and statistics that stay at the node.

    part_steps: local steps at the beginning of a round that train these parts alone, all later ones the rest alone; 0:
    all steps train everything. pull: the node has a second, whole model, drawn towards the global one so strongly.
    """

    parts: tuple[str, ...] = ()
    part_steps: int = 0
    pull: float | None = None

    def keeps(self, name: str) -> bool:
        """Whether a leaf ("meta/head.weight", "outer/m/head.weight") stays at the node."""
        return bool(self.parts) and name.rpartition("/")[2].startswith(self.parts)


def none() -> Personal:
    """Everything is shared."""
    return Personal()


def fedbn() -> Personal:
    """FedBN: normalization layers, their statistics too, stay at the node.

    Li, Jiang, Zhang, Kamp, Dou, FedBN: Federated Learning on Non-IID Features via Local Batch Normalization, ICLR 2021,
    https://arxiv.org/abs/2102.07623, algorithm 1.
    """
    return Personal((NORM,))


def fedrep(
    *,
    head_steps: Annotated[
        int, Field(ge=0, description="Steps of a round for the output layer alone, before the rest; 0: both together.")
    ] = 0,
) -> Personal:
    """FedRep: the output layer stays at the node, the features are shared; with head_steps 0 it is FedPer.

    Collins, Hassani, Mokhtari, Shakkottai, Exploiting Shared Representations for Personalized Federated Learning, ICML
    2021, https://arxiv.org/abs/2102.07078, algorithm 1. FedPer: Arivazhagan, Aggarwal, Singh, Choudhary, Federated
    Learning with Personalization Layers, 2019, https://arxiv.org/abs/1912.00818.
    """
    return Personal((HEAD,), head_steps)


def ditto(
    *, pull: Annotated[float, Field(ge=0, description="Lambda: weight of half the squared distance.")] = 0.1
) -> Personal:
    """Ditto: beside the shared model each node trains one of its own, held near the global one.

    Li, Hu, Beirami, Smith, Ditto: Fair and Robust Federated Learning Through Personalization, ICML 2021,
    https://arxiv.org/abs/2012.04221, algorithm 1. We differ: a node's own model starts as the global one that it first
    meets, and moves once with each local step, on the same rows, by the outer optimiser with a fresh state each round.
    """
    return Personal(pull=pull)


PERSONAL: dict[str, Callable[..., Personal]] = {"none": none, "fedbn": fedbn, "fedrep": fedrep, "ditto": ditto}
