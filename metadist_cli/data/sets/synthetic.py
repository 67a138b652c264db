"""FedProx's synthetic(alpha, beta): every user has their own linear model and their own cloud of points.

T. Li et al. (2020), Federated Optimization in Heterogeneous Networks, MLSys, https://arxiv.org/abs/1812.06127
(section 5.1), after O. Shamir, N. Srebro, T. Zhang (2014), ICML. As in the authors' code, alpha and beta are standard
deviations and the bias shares the mean of the weights. That mean, alpha's only effect, is the same for all classes of
a user and so cancels in the argmax: alpha changes no label, here or there. Users differ because each draws its own
weights, and by beta.
Where we differ: their generator sets no seed, so their numbers cannot be reproduced; numbers are single precision;
a user has at most 10,000 rows; classes, features and rows can be chosen.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.core.seeds import numpy_generator
from metadist_cli.data.types import Dataset, Group, build

_ROWS_MAX = 10_000
_VALUES = 1_000_000_000  # 4 GB


def synthetic(
    seed: int,
    *,
    nodes: Annotated[int, Field(ge=1, le=1_000_000, description="number of users, the natural nodes")] = 30,
    rows: Annotated[
        int | None,
        Field(ge=1, le=_ROWS_MAX, description="rows per user; null: 50 + lognormal(4, 2), as FedProx"),
    ] = None,
    features: Annotated[int, Field(ge=1, le=100_000, description="length of an input")] = 60,
    classes: Annotated[int, Field(ge=2, le=10_000, description="number of classes")] = 10,
    alpha: Annotated[
        float,
        Field(ge=0, le=1e3, description="as in FedProx: spread of the users' mean weight, equal for all classes"),
    ] = 1.0,
    beta: Annotated[float, Field(ge=0, le=1e3, description="how much the users' inputs differ")] = 1.0,
    iid: Annotated[
        bool, Field(description="one model and one cloud for all users; then alpha and beta have no effect")
    ] = False,
) -> Dataset:
    """Linear classification, a model per user.

    Args:
        seed: of the experiment; all numbers depend on it.

    Returns:
        x (n, features) float32, feature j having variance j**-1.2; group "user".

    Raises:
        Problem(CONFIG): the inputs would take more than 4 GB.
    """
    rng = numpy_generator(seed, "synthetic")
    if rows is None:
        sizes = np.minimum(rng.lognormal(4.0, 2.0, nodes), _ROWS_MAX - 50).astype(np.int64) + 50
    else:
        sizes = np.full(nodes, rows)
    total = int(sizes.sum())
    if total * features > _VALUES:
        raise Problem(
            f"{nodes:,} users with {total:,} rows of {features:,} features are {total * features:,} numbers; "
            f"the limit is {_VALUES:,}",
            "data",
            "lower data.nodes, data.rows or data.features",
            CONFIG,
        )

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    model_mean, input_mean = alpha * normal(nodes), beta * normal(nodes)
    spread = np.arange(1, features + 1, dtype=np.float32) ** np.float32(-0.6)  # the root of the variance
    weight, bias, centre = normal(features, classes), normal(classes), np.zeros(features, dtype=np.float32)
    x, label = np.empty((total, features), dtype=np.float32), np.empty(total, dtype=np.int64)
    ends = np.cumsum(sizes)
    for user, (start, end) in enumerate(zip((ends - sizes).tolist(), ends.tolist(), strict=True)):
        if not iid:
            weight, bias = model_mean[user] + normal(features, classes), model_mean[user] + normal(classes)
            centre = input_mean[user] + normal(features)
        mine = x[start:end]
        rng.standard_normal(dtype=np.float32, out=mine)
        mine *= spread
        mine += centre
        label[start:end] = np.argmax(mine @ weight + bias, axis=1)
    users = tuple(f"user-{i:0{len(str(nodes - 1))}d}" for i in range(nodes))
    return build(
        "classification",
        x,
        label,
        tuple(str(i) for i in range(classes)),
        groups={"user": Group(np.repeat(np.arange(nodes), sizes), users)},
    )
