"""Muon and AdamW as one optimiser."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from rsvp_ros.errors import ConfigurationError
from rsvp_ros.training.optimizer import MuonAdamW, make_optimizer, set_learning_rate


class Network(nn.Module):
    """A convolution of an image, hidden layers, a head whose weights are the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.sees = nn.Conv2d(3, 8, 3)
        self.layers = nn.ModuleList([nn.Conv2d(8, 12, 3), nn.Linear(12, 12)])
        self.embedding = nn.Embedding(5, 12)
        self.head = nn.Linear(12, 5)
        self.head.weight = self.embedding.weight
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        kernel, linear = self.layers
        return self.head(linear(kernel(self.sees(images).relu()).relu().mean((2, 3)))) * (1 + self.gate)


def stepped(
    network: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1, rate: float = 1e-2
) -> dict[str, torch.Tensor]:
    """By how much each parameter moves in some steps."""
    set_learning_rate(optimizer, rate)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for step in range(steps):
        images = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), torch.arange(16) % 5).backward()
        optimizer.step()
    return {name: p.detach() - before[name] for name, p in network.named_parameters()}


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_hidden_matrices_and_kernels_move_as_with_muon_and_all_else_as_with_adamw(layout):
    torch.manual_seed(0)
    network = Network().to(memory_format=layout)
    alone = copy.deepcopy(network)
    optimizer = make_optimizer(network.named_parameters(), 1e-2, 0.0, hasty=[network.gate], haste=20.0, others=0.5)
    moved = stepped(network, optimizer)
    for name in (hidden := ("layers.0.weight", "layers.1.weight")):
        matrix = nn.Parameter(alone.get_parameter(name).detach().flatten(1).clone())
        matrix.grad = network.get_parameter(name).grad.flatten(1)
        start = matrix.detach().clone()
        torch.optim.Muon([matrix], lr=1e-2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw").step()
        assert torch.equal(moved[name].flatten(1), matrix.detach() - start), name
    adam = make_optimizer(alone.named_parameters(), 1e-2, 0.0, muon=False, hasty=[alone.gate], haste=20.0, others=0.5)
    assert type(adam) is torch.optim.AdamW
    for name, difference in stepped(alone, adam).items():
        if name not in hidden:
            torch.testing.assert_close(moved[name], difference)
    assert moved["gate"].abs() == pytest.approx(20 * 1e-2)
    assert moved["head.bias"].abs().max() == pytest.approx(0.5 * 1e-2, rel=1e-3)


def test_a_learning_rate_of_zero_stops_both():
    torch.manual_seed(0)
    network = Network()
    optimizer = make_optimizer(network.named_parameters(), 1e-2, 0.1)
    assert not any(moved.any() for moved in stepped(network, optimizer, rate=0.0).values())


def test_what_is_gone_on_with_is_the_same():
    torch.manual_seed(0)
    network = Network()
    optimizer = make_optimizer(network.named_parameters(), 1e-2, 0.1)
    stepped(network, optimizer, 3)
    other = copy.deepcopy(network)
    resumed = make_optimizer(other.named_parameters(), 1e-2, 0.1)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    stepped(network, optimizer, 2)
    stepped(other, resumed, 2)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))


def test_scaled_gradients_are_unscaled_and_infinite_ones_skipped():
    """As float16 has them; a power of two rounds nothing."""
    torch.manual_seed(0)
    network = Network()
    alone = copy.deepcopy(network)
    start = copy.deepcopy(network.state_dict())
    optimizer, plain = (make_optimizer(each.named_parameters(), 1e-2, 0.1) for each in (network, alone))
    scaler = torch.amp.GradScaler("cpu")
    images = torch.rand(16, 3, 8, 8)

    def loss(of: nn.Module) -> torch.Tensor:
        return nn.functional.cross_entropy(of(images), torch.arange(16) % 5)

    for factor in (float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale(loss(network)).backward()
        network.layers[0].weight.grad *= factor
        scale = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        assert all(torch.equal(start[name], p) for name, p in network.state_dict().items()) == (factor > 1)
        assert (scaler.get_scale() < scale) == (factor > 1)
    loss(alone).backward()
    plain.step()
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), alone.parameters(), strict=True))


@pytest.mark.parametrize("name", ["layers.0.weight", "layers.1.weight", "embedding.weight"])
def test_matrices_decay_by_what_is_asked_for_now(name):
    torch.manual_seed(0)
    network = Network()
    others = [copy.deepcopy(network) for _ in range(2)]
    before = make_optimizer(network.named_parameters(), 1e-2, 0.5)
    moved = []
    for other, decay in zip(others, (0.0, 0.1), strict=True):
        optimizer = make_optimizer(other.named_parameters(), 1e-2, decay)
        optimizer.load_state_dict(copy.deepcopy(before.state_dict()))
        start = other.get_parameter(name).detach().clone()
        moved.append(stepped(other, optimizer)[name])
    torch.testing.assert_close(moved[1] - moved[0], -1e-2 * 0.1 * start)


def test_the_state_of_another_optimiser_is_refused():
    network = Network()
    optimizer = make_optimizer(network.named_parameters(), 1e-2, 0.0)
    assert isinstance(optimizer, MuonAdamW)
    with pytest.raises(ValueError, match="another optimiser"):
        optimizer.load_state_dict(torch.optim.AdamW(network.parameters()).state_dict())


def test_a_torch_without_muon_is_told_with_the_remedy(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ConfigurationError, match=r"torch 2\.9 or newer.*rsvp_ros\[train\]"):
        make_optimizer(Network().named_parameters(), 1e-2, 0.0)
