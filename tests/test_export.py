"""torch.export and torch.compile take the model: text, positions given, no cache."""

import pytest
import torch

import minqwen

pytestmark = pytest.mark.slow  # tracing takes seconds
IDS = torch.arange(3, 40)[None]
PLACE = torch.arange(37).expand(3, 1, 37)


@pytest.fixture(scope="module")
def model():
    return minqwen.load("assets/tiny").requires_grad_(False)


def error(mine, reference):
    return ((mine - reference).abs().max() / reference.abs().max()).item()


def test_export(model):
    program = torch.export.export(model, (IDS,), {"position_ids": PLACE})
    want = model(IDS + 100, position_ids=PLACE)
    assert error(program.module()(IDS + 100, position_ids=PLACE), want) < 1e-5


def test_compile(model):
    """The whole graph in one piece; to compile it for a machine is torch's matter."""
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    want = model(IDS, position_ids=PLACE)
    assert error(compiled(IDS, position_ids=PLACE), want) < 1e-5
