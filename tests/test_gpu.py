"""What an NVIDIA GPU must do as the CPU does; these tests run where there is one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
import torch
from runner import Lab
from safetensors.torch import load

from metadist_cli.execution import settle

DEVICE = os.environ.get("METADIST_TEST_DEVICE", "cuda:0")  # cpu: to try the tests themselves
pytestmark = pytest.mark.skipif(
    DEVICE.startswith("cuda") and not torch.cuda.is_available(), reason="needs an NVIDIA GPU, and torch with CUDA"
)
ON, OFF = (f"execution.device={DEVICE}", "execution.block=2"), ("execution.device=cpu", "execution.block=2")
LEARNERS = ("{name: maml}", "{name: prototypical}", "{name: ridge}", "{name: supervised}")


@pytest.fixture(autouse=True)
def float32() -> Iterator[None]:
    yield
    settle()


@pytest.mark.parametrize("learner", LEARNERS)
def test_a_gpu_comes_to_the_cpus_parameters(lab: Lab, learner: str):
    """After two rounds, but for the order of sums; and to its scores."""
    told = ("train.rounds=2", "finetune.episodes=4", f"learner={learner}")
    for name, device in (("here", OFF), ("there", ON)):
        lab("run", *told, *device, name=name)
    here, there = (load(lab.checkpoint(2, name=name)) for name in ("here", "there"))
    for key, value in here.items():
        torch.testing.assert_close(there[key], value, rtol=1e-3, atol=1e-4)
    told = ((lab.run(name) / "finetune" / "new" / "metrics.json").read_text() for name in ("here", "there"))
    scores = [json.loads(text)["per_step"] for text in told]
    for one, two in zip(*scores, strict=True):
        assert two["mean"] == pytest.approx(one["mean"], abs=0.02)


def test_a_gpus_run_says_where_it_was_and_what_it_took(lab: Lab):
    lab("run", "train.rounds=1", "finetune.episodes=2", *ON)
    manifest = json.loads((lab.run() / "manifest.json").read_text())
    assert manifest["execution"]["device"] == DEVICE
    took = manifest["commands"][-1]["peak_memory"]
    assert took.get("gpu", 0) > 0 or not DEVICE.startswith("cuda")


def test_float32_is_float32(lab: Lab):
    """torch's own default would be tf32 for convolutions."""
    lab("run", "train.rounds=1", "finetune.episodes=2", *ON)
    x = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    exact = x.double() @ x.double()
    image, kernel = x[None, None], x[None, None, :3, :3]
    assert ((x.to(DEVICE) @ x.to(DEVICE)).cpu() - exact).abs().max() < 1e-4
    found = torch.nn.functional.conv2d(image.to(DEVICE), kernel.to(DEVICE)).cpu()
    exact = torch.nn.functional.conv2d(image.double(), kernel.double())
    assert (found - exact).abs().max() < 1e-5


def test_a_gpu_that_is_not_there_is_told(lab: Lab):
    lab("partition")
    told = lab("train", "execution.device=cuda:99", code=5).err
    assert told.startswith("execution.device: there is no device cuda:99 here")
