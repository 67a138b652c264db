"""The same federated rounds through frameworks, where they are installed: pfl (pfl-research) and flwr (Flower on Ray).

Of fedavg alone. Both have a seat for every node, all of which train in every round, with equal weights.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rounds_reference import BATCH, LR, batches, ended, loop_epoch, model, rows, weights_of
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

PACKAGES = {"pfl": ("pfl",), "flwr": ("flwr", "ray")}


def missing(variant: str) -> bool:
    """Whether it is not installed."""
    return any(find_spec(package) is None for package in PACKAGES[variant])


def play(work: dict[str, Any], mark: Callable[[], None]) -> dict[str, Any]:
    """All rounds of a framework; mark is called at the end of each."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network, told = model(), json.dumps({name: work[name] for name in ("nodes", "rows", "data")})
    first = weights_of(network)
    if work["variant"] == "pfl":
        pfl_rounds(network, *shares(told), work["rounds"], mark)
    else:
        flower_rounds(network, told, work["rounds"], Path(work["folder"]), mark)
    return ended(first, weights_of(network))


@cache
def shares(told: str) -> tuple[Tensor, Tensor]:
    """x (nodes, rows of an epoch, 64) and y: the reference's batches of every node, one after the other."""
    x, y = zip(*batches(*rows(json.loads(told))), strict=True)
    return torch.cat(x, 1), torch.cat(y, 1)


def tree_seconds() -> float:
    """CPU time of this process, of all that descend from it, and of those of them that have ended; by 10 ms."""
    return sum(tree().values()) / os.sysconf("SC_CLK_TCK")


def tree() -> dict[int, int]:
    """Ticks of CPU time by process: this one and all that descend from it, as Ray's raylet and workers do."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        pid = int(path.parent.name)
        parents[pid], ticks[pid] = int(fields[1]), sum(map(int, fields[11:15]))
    below = found = {os.getpid()}
    while found:
        found = {pid for pid, parent in parents.items() if parent in found} - below
        below = below | found
    return {pid: ticks[pid] for pid in below}


def pfl_rounds(network: nn.Module, x: Tensor, y: Tensor, rounds: int, mark: Callable[[], None]) -> None:
    """Trains the network with pfl's simulation in this process, which evaluates in the first round alone."""
    base, hyper = import_module("pfl.algorithm.base"), import_module("pfl.hyperparam.base")
    metrics, callbacks = import_module("pfl.metrics"), import_module("pfl.callback.base")
    dataset, sampling = import_module("pfl.data.dataset").Dataset, import_module("pfl.data.sampling")

    class Marked(callbacks.TrainingProcessCallback):
        def after_central_iteration(self, *_: Any, **__: Any) -> tuple[bool, Any]:
            mark()
            return False, metrics.Metrics()

    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return cross_entropy(self.network(x), y)

        def metrics(self, x: Tensor, y: Tensor) -> dict[str, Any]:
            return {"loss": metrics.Weighted(self.loss(x, y).item() * len(y), len(y))}

    nodes, module = [[*own] for own in zip(x, y, strict=True)], WithLoss()
    sampler = sampling.get_user_sampler("minimize_reuse", range(len(nodes)))
    federated = import_module("pfl.data.federated_dataset").FederatedDataset(
        lambda node: dataset(nodes[node], user_id=node), sampler
    )
    import_module("pfl.algorithm.federated_averaging").FederatedAveraging().run(
        algorithm_params=base.NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=rounds + 1,
            train_cohort_size=len(nodes),
            val_cohort_size=0,
        ),
        backend=import_module("pfl.aggregate.simulate").SimulatedBackend(
            federated, federated, postprocessors=[import_module("pfl.aggregate.weighting").WeightByUser()]
        ),
        model=import_module("pfl.model.pytorch").PyTorchModel(
            module, torch.optim.SGD, torch.optim.SGD(module.parameters(), 1.0)
        ),
        model_train_params=hyper.NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=LR, local_batch_size=min(x.shape[1], BATCH)
        ),
        model_eval_params=hyper.NNEvalHyperParams(local_batch_size=None),
        callbacks=[Marked()],
    )


def flower_rounds(network: nn.Module, told: str, rounds: int, folder: Path, mark: Callable[[], None]) -> None:
    """Trains the network with Flower's simulation: a ServerApp in this process, ClientApps in a worker of Ray's."""
    os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0", "FLWR_HOME": str(folder / "flwr")}
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"  # its future default: it warns where neither is chosen
    app, strategy = import_module("flwr.app"), import_module("flwr.serverapp.strategy")
    client, server = import_module("flwr.clientapp").ClientApp(), import_module("flwr.serverapp").ServerApp()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    nodes, started = json.loads(told)["nodes"], set()

    class EveryNode(strategy.FedAvg):
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            replies = [*replies]
            if sum(not reply.has_error() for reply in replies) < nodes:
                raise RuntimeError(f"not every node has trained in round {server_round}")
            return super().aggregate_train(server_round, replies)

    @client.train()
    def train(message: Any, context: Any) -> Any:
        return flower_node(told, message, context)

    @server.main()
    def main(grid: Any, _: Any) -> None:
        def evaluate(number: int, _: Any) -> None:  # Flower calls it before the first round, too
            if number:
                mark()

        everyone = EveryNode(
            fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes
        )
        first = app.ArrayRecord(network.state_dict())
        done = everyone.start(grid=grid, initial_arrays=first, num_rounds=rounds, evaluate_fn=evaluate)
        network.load_state_dict(done.arrays.to_torch_state_dict())
        started.update(tree().keys() - {os.getpid()})

    resources = {"num_cpus": 1, "num_gpus": 0.0}
    ray = {"num_cpus": 1, "object_store_memory": 200 << 20, "_temp_dir": str(folder / "ray")}
    ray |= {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    backend = {"init_args": ray, "client_resources": resources}
    import_module("flwr.simulation").run_simulation(server, client, num_supernodes=nodes, backend_config=backend)
    for pid in started:  # Ray is shut down, but a worker may take seconds to see it, and would disturb what comes next
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def flower_node(told: str, message: Any, context: Any) -> Any:
    """A node's reply to the server, in a worker, which reads the data once."""
    app, network = import_module("flwr.app"), model()
    torch.set_num_threads(1)
    x, y = (array[[int(context.node_config["partition-id"])]] for array in shares(told))
    network.load_state_dict(message.content["arrays"].to_torch_state_dict())
    loop_epoch(network, dict(network.named_parameters()), "fedavg", batches(x, y), LR)
    told_back = {"arrays": app.ArrayRecord(network.state_dict())}
    told_back["metrics"] = app.MetricRecord({"num-examples": y.shape[1]})
    return app.Message(content=app.RecordDict(told_back), reply_to=message)
