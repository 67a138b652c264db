"""What an NVIDIA GPU must do as the CPU does; these tests run where there is one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
import torch
from runner import Lab
from safetensors.torch import load

from metadist_cli.runtime.execution import settle

DEVICE = os.environ.get("METADIST_TEST_DEVICE", "cuda:0")  # cpu: to try the tests themselves
pytestmark = pytest.mark.skipif(
    DEVICE.startswith("cuda") and not torch.cuda.is_available(), reason="needs an NVIDIA GPU, and torch with CUDA"
)
ON, OFF = f"execution.device={DEVICE}", "execution.device=cpu"
MODEL = "model={name: conv4, width: 8, norm: batch_running, affine: both}"
LEARNERS = ("maml", "anil", "meta_sgd", "reptile", "prototypical", "ridge", "svm", "supervised")


@pytest.fixture(autouse=True)
def float32() -> Iterator[None]:
    yield
    settle()


@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize("learner", LEARNERS)
def test_a_gpu_comes_to_the_cpus_parameters(lab: Lab, learner: str, block: int):
    """After two rounds, but for the order of sums; and to its scores. A block of one is plain autograd."""
    told = ("train.rounds=2", "finetune.episodes=4", MODEL, f"learner={{name: {learner}}}")
    for name, device in (("here", OFF), ("there", ON)):
        lab("run", *told, device, f"execution.block={block}", f"execution.tasks_at_once={block}", name=name)
    here, there = (load(lab.checkpoint(2, name=name)) for name in ("here", "there"))
    for key, value in here.items():
        torch.testing.assert_close(there[key], value, rtol=1e-3, atol=1e-4)
    told = ((lab.run(name) / "finetune" / "new" / "metrics.json").read_text() for name in ("here", "there"))
    scores = [json.loads(text)["per_step"] for text in told]
    for one, two in zip(*scores, strict=True):
        assert two["mean"] == pytest.approx(one["mean"], abs=0.02)


def test_a_gpus_run_says_where_it_was_and_what_it_took(lab: Lab):
    lab("run", "train.rounds=1", "finetune.episodes=2", ON)
    manifest = json.loads((lab.run() / "manifest.json").read_text())
    assert manifest["execution"]["device"] == DEVICE
    took = manifest["commands"][-1]["peak_memory"]
    assert took.get("gpu", 0) > 0 or not DEVICE.startswith("cuda")


def off_by(precision: str) -> tuple[float, float]:
    """How far products and convolutions are from those in float64."""
    settle(precision)
    x = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    image, kernel = x.expand(2, 64, 64, 64), x.reshape(64, 64, 1, 1).expand(64, 64, 3, 3) - 0.5
    found = (x.to(DEVICE) @ x.to(DEVICE)).cpu(), torch.conv2d(image.to(DEVICE), kernel.to(DEVICE)).cpu()
    exact = x.double() @ x.double(), torch.conv2d(image.double(), kernel.double())
    one, two = (float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True))
    return one, two


def test_float32_is_float32():
    """torch's own default would be tf32 for convolutions, which has 10 bits."""
    assert max(off_by("float32")) < 1e-5
    if DEVICE.startswith("cuda") and torch.cuda.get_device_capability() >= (8, 0):
        assert min(off_by("tf32")) > 1e-5
