"""The references themselves, against numbers from the literature and the published code."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from . import dreamer_reference as ref

POST = [[1, 0, -1], [0.5, 0.5, 2]]
PRIOR = [[0, 0, 0], [0, 1, 0]]


def test_divergence_of_known_logits() -> None:
    assert_allclose(ref.kl_groups(POST, PRIOR), [0.26621671, 0.56534049], atol=1e-8)
    assert_allclose(ref.kl(PRIOR, POST), 0.88473465, atol=1e-8)
    assert_allclose(ref.entropy(POST), [0.83239558, 0.83182345], atol=1e-8)


def test_balanced_gradients_of_known_logits() -> None:
    prior = [[-0.26552610, 0.07088389, 0.19464221], [0.04612863, 0.33746889, -0.38359752]]
    post = [[0.05651749, -0.02815407, -0.02836342], [-0.02724219, -0.05809834, 0.08534053]]
    assert_allclose(0.8 * ref.kl_grad_prior(POST, PRIOR), prior, atol=1e-8)
    assert_allclose(0.2 * ref.kl_grad_post(POST, PRIOR), post, atol=1e-8)


def test_divergence_where_a_probability_underflows() -> None:
    assert_allclose(ref.kl_groups([0.0, 0.0], [0.0, -200.0]), 99.30685282, atol=1e-8)


def test_lambda_returns_of_a_known_rollout() -> None:
    reward, value, discount = [1, 0, 2, -1], [10, 8, 6, 4], [0.99] * 4
    assert_allclose(
        ref.lambda_return(reward, value, discount, 0.95), [6.94718839, 5.90238, 5.96], atol=1e-8
    )
    discount[1] = 0
    assert_allclose(ref.lambda_return(reward, value, discount, 0.95), [1.396, 0, 5.96], atol=1e-8)
    assert_allclose(ref.weights(discount), [1, 0.99, 0, 0], atol=1e-12)


def test_truncated_normal_of_known_parameters() -> None:
    dist = ref.truncnorm(np.tanh([0.5, -2]), ref.actor_scale([0, -3]))
    assert_allclose(dist.logpdf([0.3, -0.8]), [-0.50706107, 0.41815913], atol=1e-8)
    assert_allclose(dist.mean(), [0.11297131, -0.61576191], atol=1e-8)
    assert_allclose(dist.entropy(), [0.66691430, -0.00961763], atol=1e-8)
    assert_allclose(dist.ppf([0.25, 0.9]), [-0.31194520, -0.21303342], atol=1e-8)


@pytest.mark.parametrize(
    ("form", "gradient", "expected"),
    [
        ("l2", 0.5, 0.9997000060),
        ("decoupled", 0.5, 0.9996991896),
        ("adamw", 0.5, 0.9997000057),
        ("l2", 1e-6, 0.9999500000),
        ("decoupled", 1e-6, 0.9999980543),
    ],
)
def test_first_adam_update(form: str, gradient: float, expected: float) -> None:
    adam = ref.Adam(np.ones(1), form)
    adam.step(np.full(1, gradient))
    assert_allclose(adam.w, [expected], atol=2e-10)


def test_counts_derived_from_the_layers() -> None:
    assert ref.cnn_encoder() == 1_551_312
    assert ref.cnn_decoder(2048) == 11_152_275
    assert ref.resnet_encoder() == 1_562_112
    assert ref.resnet_decoder(2048) == 7_519_227
    assert ref.rssm(1536, 4, 1024, 1024) == 13_125_632
    assert ref.rssm(3072, 4, 1024, 1024) == 14_698_496
    assert ref.rssm(1536, 6, 200, 200) == 1_247_248
    assert ref.rssm(1536, 18, 600, 600) == 5_664_848
    assert ref.mlp(2048, 1) == 1_301_201
