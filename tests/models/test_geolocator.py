from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mnvision import load_model
from mnvision.checkpoint import save_model
from mnvision.errors import UserError
from mnvision.models.create import build_model, create_model
from mnvision.models.place_objective import PlaceObjective
from mnvision.ops.geo import haversine
from mnvision.ops.s2 import cell_centers, read_tokens
from mnvision.profiler import profile
from mnvision.types import Labels

# Two cells of level 8 side by side, one on the other side of the Atlantic, and a large one around Sydney.
TOKENS = ("47e61", "47e67", "6b", "89c25")
PLACES = [[48.0, 2.0], [48.8, 2.3], [-33.0, 151.0], [40.7, -74.0]]


def geolocator(**options):
    torch.manual_seed(0)
    return create_model("geolocate", alpha=0.25, image_size=32, classes=TOKENS, task_options=options).eval()


def test_golden_costs_of_planet():
    """FACTS, section 1.5: 26,263 cells at alpha 1 and 224 pixels."""
    with torch.device("meta"):
        model = create_model("geolocate", num_classes=26_263)
    cost = profile(model)
    assert cost.image_size == 224
    assert cost.mult_adds == 594_609_664
    assert cost.parameters == 30_078_400


def test_it_answers_the_place_of_the_best_cell():
    model = geolocator(places=PLACES)
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0], [0.0, 0.0, 9.0, 0.0]])
    found = model.predict(torch.zeros(2, 3, 32, 32), output=logits)
    torch.testing.assert_close(found.probabilities, logits.softmax(-1))
    assert found.cells.tolist() == [1, 2]
    torch.testing.assert_close(found.places, torch.tensor(PLACES)[[1, 2]])
    pictures = [np.zeros((40, 50, 3), np.uint8), np.full((20, 20, 3), 200, np.uint8)]
    assert model.predict(pictures).places.shape == (2, 2)


def test_without_places_it_answers_the_centre():
    torch.testing.assert_close(geolocator().places, torch.from_numpy(cell_centers(read_tokens(TOKENS))).float())


def test_the_best_parent_can_be_asked_first():
    """The two cells in Paris's parent together are likelier than the one that is likeliest alone."""
    logits = torch.tensor([[0.3, 0.25, 0.05, 0.4]]).log()
    image = torch.zeros(1, 3, 32, 32)
    model = geolocator(places=PLACES)
    assert model.predict(image, output=logits).cells.tolist() == [3]
    model.parent_level = 5
    assert model.predict(image, output=logits).cells.tolist() == [0]
    assert geolocator(parent_level=5).predict(image, output=logits).cells.tolist() == [0]
    assert geolocator(parent_level=8).predict(image, output=logits).cells.tolist() == [3]


def test_it_comes_back_from_a_checkpoint_whole(tmp_path):
    model = geolocator(places=PLACES, parent_level=5)
    save_model(model, tmp_path / "a.ckpt")
    again = load_model(tmp_path / "a.ckpt", task="geolocate")
    image = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    for one, other in zip(model.predict(image), again.predict(image), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert again.spec == model.spec
    torch.testing.assert_close(build_model(model.spec).places, model.places)
    assert not [name for name in model.state_dict() if "places" in name]  # a state dict holds what was learnt


def test_what_cannot_tell_places_says_so():
    model = create_model("geolocate", alpha=0.25, image_size=32, num_classes=5).eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 5)
    with pytest.raises(UserError, match=r"its classes are no S2 cells; make it with classes=TOKENS"):
        model.predict(torch.zeros(1, 3, 32, 32))
    with pytest.raises(UserError, match=r"4 cells got places of shape \[3, 2\]; expected \[4, 2\]"):
        geolocator(places=PLACES[:3])


def test_soft_labels_by_hand():
    """Shares in proportion to exp(-distance / scale), of the distance from the true place."""
    model = geolocator(places=PLACES)
    true = np.array([[48.7, 2.2], [0.0, 0.0], [41.0, -73.0]])
    objective = PlaceObjective(model, scale=75.0)
    places = torch.from_numpy(true).float()
    targets = Labels(torch.tensor([3, 1]), torch.tensor([2, 0]), places=places[[2, 0]])
    found = objective.soft_targets(targets)
    for row, picture in enumerate((2, 0)):
        weights = [math.exp(-float(haversine(true[picture], np.array(place))) / 75) for place in PLACES]
        assert found[row].tolist() == pytest.approx([weight / sum(weights) for weight in weights], abs=1e-4)
    assert found[1, 1] > found[1, 0] > 0.1  # the neighbour has a share
    logits = torch.tensor([[1.0, 2.0, 0.0, 4.0], [0.5, 0.0, 0.0, 1.0]])
    expected = -(found * logits.log_softmax(-1)).sum(-1)
    assert objective.class_loss(logits, targets) == pytest.approx(expected.mean().item())
    outside = Labels(torch.tensor([3, -1]), torch.tensor([2, 1]), places=places[[2, 1]])  # one in no cell has no loss
    assert objective.class_loss(logits, outside) == pytest.approx(expected[0].item())
    nothing = Labels(torch.tensor([-1]), torch.tensor([1]), places=places[[1]])
    assert objective.class_loss(logits[:1], nothing) == 0


def test_one_batch_is_learnt():
    model = geolocator(places=PLACES).train()
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    targets = Labels(torch.arange(8) % 4, torch.arange(8), places=torch.tensor(PLACES).repeat(2, 1))
    objective = PlaceObjective(model, scale=10.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        loss = objective(images, targets)["class_loss"]
        loss.backward()
        optimizer.step()
    assert loss < 0.2
