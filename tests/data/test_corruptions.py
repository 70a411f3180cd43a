"""Natural corruptions: closed forms, slow twins, sizes, and what is random."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from holdfast.data.corruptions import CORRUPTIONS, SEVERITIES, CorruptedPixels, corrupted
from holdfast.data.corruptions.blur import convolved, disc, enlarged, trail
from holdfast.data.corruptions.digital import CELLS, CONTRASTS, QUALITIES, quality_at
from holdfast.data.corruptions.noise import DEVIATIONS, PHOTONS, SHARES
from holdfast.data.corruptions.scale import length, strength
from holdfast.data.corruptions.weather import LIGHT, fractal
from holdfast.util.errors import HoldfastError
from tests.helpers.tiny import digits
from tests.oracles import corruptions as oracles

DETERMINISTIC = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}


def images(count: int, channels: int, side: int, seed: int = 0) -> torch.Tensor:
    """Smooth ones, of 8 bits."""
    rng = np.random.default_rng(seed)
    maps = np.stack([[fractal(rng, side, 1.8) for _ in range(channels)] for _ in range(count)])
    return torch.from_numpy((255 * maps).round() / 255).float()


def picture(side: int = 9, channels: int = 3, seed: int = 0) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).random((side, side, channels))


def apply(kind: str, image: npt.NDArray[np.float64], severity: int, seed: int = 0) -> npt.NDArray[np.float64]:
    return CORRUPTIONS[kind](image, severity, np.random.default_rng(seed))


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize(("channels", "side"), [(1, 8), (1, 28), (3, 33)])
def test_every_kind_at_every_size(kind: str, channels: int, side: int) -> None:
    x = images(2, channels, side)
    for severity in SEVERITIES:
        found = corrupted(x, kind, severity, [3, 8])
        assert found.shape == x.shape
        assert found.dtype == x.dtype
        assert found.min() >= 0
        assert found.max() <= 1
        assert torch.equal(found, (255 * found).round() / 255)
    assert (found - x).abs().mean() > 0.002


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_what_is_random_follows_from_seed_kind_severity_and_id_alone(kind: str) -> None:
    x = images(1, 3, 24).expand(3, -1, -1, -1)
    together = corrupted(x, kind, 3, [5, 6, 7], seed=1)
    assert torch.equal(corrupted(x[:1], kind, 3, [6], seed=1)[0], together[1])
    same = (together[0] == together[1]).all() and torch.equal(corrupted(x, kind, 3, [5, 6, 7], seed=2), together)
    assert bool(same) == (kind in DETERMINISTIC)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_closed_forms(severity: int) -> None:
    grey, x = np.full((112, 112, 1), 0.5), picture()
    i, root = severity - 1, np.sqrt(0.5)
    noise = apply("gaussian_noise", grey, severity) - 0.5
    assert noise.std() == pytest.approx(root * DEVIATIONS[i], rel=0.03)
    shot = apply("shot_noise", grey, severity)
    assert shot.mean() == pytest.approx(0.5, abs=0.02)
    assert shot.std() == pytest.approx(root * np.sqrt(0.5 / PHOTONS[i]), rel=0.03)
    impulse = apply("impulse_noise", grey, severity)
    assert (impulse != 0.5).mean() == pytest.approx(root * SHARES[i], rel=0.1)
    assert {*np.unique(impulse)} == {0.0, 0.5, 1.0}
    faint = apply("contrast", x, severity)
    assert np.allclose(faint.mean((0, 1)), x.mean((0, 1)))
    assert np.allclose(faint.std((0, 1)), CONTRASTS[i] * x.std((0, 1)))
    assert np.allclose(apply("brightness", x, severity), oracles.brighter(x, LIGHT[i]))
    assert np.allclose(apply("brightness", grey, severity), min(1, 0.5 + LIGHT[i]))
    assert np.allclose(apply("brightness", 0 * grey, severity), LIGHT[i])
    for kind in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform", "pixelate"):
        assert np.allclose(apply(kind, grey, severity), 0.5, atol=1 / 255), kind
    misty = apply("fog", x, severity)
    assert misty.max() <= x.max() + 1e-12
    assert (apply("snow", grey, severity) >= 0.5).all()


def test_pixelated_as_by_its_twin() -> None:
    x = np.round(255 * picture(224)) / 255
    assert 224 * CELLS[4] == 56
    found = apply("pixelate", x, 5)
    assert np.abs(found - oracles.pixelated(x, 56)).max() <= 1 / 255


@given(st.integers(0, 10**6), st.integers(2, 9), st.sampled_from([0, 1]))
def test_convolution_agrees_with_its_twin(seed: int, side: int, half: int) -> None:
    rng = np.random.default_rng(seed)
    image, kernel = rng.random((side, side, 2)), rng.random((2 * half + 1, 2 * half + 1))
    assert np.allclose(convolved(image, kernel), oracles.convolved(image, kernel))


@given(st.floats(0, 4), st.floats(0, 6.3), st.floats(0.1, 9))
def test_kernels_keep_the_light_and_say_how_far_it_goes(radius: float, angle: float, sigma: float) -> None:
    round_, line = disc(radius), trail(radius, sigma, angle)
    for kernel in (round_, line):
        assert kernel.sum() == pytest.approx(1)
        assert (kernel >= 0).all()
    places = np.arange(len(round_)) - len(round_) // 2
    assert (round_.sum(0) * places).sum() == pytest.approx(0, abs=1e-9)
    spread = (round_.sum(0) * places**2).sum()
    assert spread >= (radius / 2) ** 2 * 0.9 - 1e-9  # the variance of a disc along an axis is r² / 4
    assert spread <= (radius / 2) ** 2 + 0.3 + 0.1 * radius


def test_a_disc_of_no_radius_changes_nothing() -> None:
    assert disc(0).tolist() == [[1.0]]


@pytest.mark.parametrize("factor", [1.0, 1.11, 1.5, 2.7])
def test_enlarged_as_by_its_twin(factor: float) -> None:
    x = picture(8, 2)
    assert np.allclose(enlarged(x, factor), oracles.enlarged(x, factor), atol=1e-6)


def test_parameters_follow_the_size() -> None:
    assert (length(112), strength(56)) == (0.5, 0.5)
    assert [quality_at(one, 224) for one in (*QUALITIES, 60)] == [*QUALITIES, 60]
    assert quality_at(25, 56) == 50  # half of 200 percent of the table's steps is 100 percent, quality 50
    small, large = (np.full((side, side, 1), 0.5) for side in (28, 224))
    noise = [apply("gaussian_noise", x, 3).std() for x in (small, large)]
    assert noise[0] / noise[1] == pytest.approx(np.sqrt(28 / 224), rel=0.1)


def test_a_blur_of_a_small_image_is_that_of_its_enlargement_made_small() -> None:
    small = picture(28, 1)
    large = small.repeat(8, axis=0).repeat(8, axis=1)
    for severity in SEVERITIES:
        shrunk = apply("defocus_blur", large, severity).reshape(28, 8, 28, 8, 1).mean(axis=(1, 3))
        found = apply("defocus_blur", small, severity)
        assert np.abs(shrunk - found).mean() < 0.05 * np.abs(found - small).mean()


def test_corrupted_pixels_are_those_of_a_test_set() -> None:
    pixels = digits(20)
    rows = torch.tensor([4, 17])
    found, readable = CorruptedPixels(pixels, "snow", 2, seed=3).read(rows)
    assert readable.all()
    assert torch.equal(found, corrupted(pixels.read(rows)[0], "snow", 2, [4, 17], 3))


def test_what_is_unknown_is_refused() -> None:
    x = images(1, 1, 8)
    with pytest.raises(HoldfastError, match="unknown corruption 'mog'; did you mean 'fog'"):
        corrupted(x, "mog", 1, [0])
    with pytest.raises(HoldfastError, match="a severity is 1, 2, 3, 4 or 5, not 6"):
        corrupted(x, "fog", 6, [0])
