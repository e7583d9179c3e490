"""Classes of latents: their number, order and covariances; classes by likelihood; a fitted mixture applied to new latents."""

import json

import pytest
import torch
from sklearn.mixture import GaussianMixture

from hetacumn.common.errors import HetacumnError
from hetacumn.evaluation.scores import accuracy
from hetacumn.prediction.classes import Mixture, classify, classify_by_likelihood, classify_from


def make_latents(counts, spread=0.1):
    """Return shuffled latents and labels: ``counts[k]`` points about (3k, 0, -3k) for each class k."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    centres = 3.0 * torch.arange(len(counts))[:, None] * torch.tensor([[1.0, 0.0, -1.0]])
    return centres[labels] + spread * torch.randn(len(labels), 3, generator=generator), labels


def test_classes_are_ordered_by_size():
    latents, labels = make_latents([60, 200, 120])
    found = classify(latents, 3)
    assert found.labels.bincount().tolist() == [200, 120, 60]
    assert torch.equal(found.labels, torch.tensor([2, 0, 1])[labels])
    expected = torch.tensor([[3.0, 0, -3], [6, 0, -6], [0, 0, 0]])
    torch.testing.assert_close(found.centres, expected, rtol=0, atol=0.1)


def test_unusable_particles_do_not_influence_the_classes():
    latents, labels = make_latents([100, 100])
    junk = torch.tensor([40.0, 0.0, 40.0]) + torch.randn(30, 3, generator=torch.Generator().manual_seed(1))
    every, usable = torch.cat([latents, junk]), torch.arange(230) < 200
    assert accuracy(classify(every, 2).labels[:200], labels) < 0.6  # the junk takes a class
    found = classify_from(every, usable, 2)
    assert accuracy(found.labels[:200], labels) == 1 and len(found.labels) == 230 and found.probabilities.isfinite().all()
    assert torch.equal(classify_from(every, torch.ones(230, dtype=torch.bool), 2).labels, classify(every, 2).labels)
    assert torch.equal(classify_from(every, usable & False, 2).labels, classify(every, 2).labels)  # too few are usable


def test_classification_by_likelihood_weighs_the_sizes_of_the_classes():
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(20_000, generator=generator) < 0.1).long()  # 90 % are of class 0
    seen = 2.0 * labels - 1 + 1.5 * torch.randn(20_000, generator=generator)
    scores = -0.5 * ((seen[:, None] - torch.tensor([1.0, -1.0])) / 1.5) ** 2  # the rarer class is in the first column
    found = classify_by_likelihood(scores, torch.tensor([[1.0], [-1.0]]))
    assert found.centres.flatten().tolist() == [-1.0, 1.0]  # the largest class comes first
    border = 1.5**2 / 2 * torch.tensor(9.0).log()  # the true classes are equally likely here
    assert float((found.labels == (seen > border)).float().mean()) > 0.98
    assert float((found.labels == labels).float().mean()) > float((scores.argmin(1) == labels).float().mean()) + 0.05


@pytest.mark.parametrize("classes", [151, 0, -1])
def test_an_impossible_number_of_classes_is_refused(classes):
    with pytest.raises(HetacumnError, match=f"{classes} classes for 150 particles; expected 1 to 150"):
        classify(make_latents([150])[0], classes)


def test_classes_have_own_covariances_or_a_shared_one():
    """``classify`` chooses the better fit; for few or low-signal images, own covariances would follow chance."""
    generator, corners = torch.Generator().manual_seed(2), torch.cartesian_prod(*[torch.tensor([1.0, -1.0])] * 2)
    labels = torch.arange(200) % 4
    z = torch.cat([corners[labels], torch.zeros(200, 2)], 1) + 0.6 * torch.randn(200, 4, generator=generator)
    own = GaussianMixture(4, n_init=5, reg_covar=1e-4, random_state=0).fit_predict(z.double().numpy())
    assert accuracy(classify(z, 4).labels, labels) > 0.85 > accuracy(own, labels) + 0.1

    labels = torch.arange(2000) % 2
    spread, at = torch.tensor([0.15, 0.8])[labels], torch.tensor([[0.0, 0.0], [1.0, 0.0]])[labels]
    z = at + spread[:, None] * torch.randn(2000, 2, generator=generator)
    shared = GaussianMixture(2, covariance_type="tied", random_state=0).fit_predict(z.double().numpy())
    assert accuracy(classify(z, 2).labels, labels) > 0.93 > accuracy(shared, labels) + 0.1


def test_one_particle_is_a_class():
    found = classify(torch.tensor([[1.0, 2.0]]), 1)
    assert found.labels.tolist() == [0] and found.centres.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("spread", [0.3, 1.2])  # separate classes, and one cloud
def test_a_mixture_read_back_gives_the_same_probabilities_also_for_a_part_of_the_latents(spread):
    generator = torch.Generator().manual_seed(0)
    z = torch.cat([torch.randn(n, 2, generator=generator) * spread + at for n, at in ((300, 0.0), (80, 1.5), (20, 3.0))])
    found = classify(z, 3)
    mixture = Mixture.of(json.loads(json.dumps(found.mixture.content())))
    assert torch.equal(mixture.probabilities(z), found.probabilities)
    assert mixture.probabilities(z[found.labels == 1][:7]).argmax(1).tolist() == [1] * 7  # latents of one class alone
    assert mixture.probabilities(found.centres).argmax(1).tolist() == [0, 1, 2]


def test_a_mixture_of_one_particle_puts_all_latents_in_its_class():
    assert classify(torch.tensor([[1.0, 2.0]]), 1).mixture.probabilities(torch.tensor([[0.0, 5.0]])).tolist() == [[1]]
