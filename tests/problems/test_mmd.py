"""The distance between sets of pictures: its estimate by hand, and what it says of icons whose styles are known."""

import pytest
import torch

from linalg import InputError
from problems import _mmd
from problems._diffusion import GlyphNet
from problems._glyphs import STYLES, parts


def test_it_is_the_sum_over_pairs_of_different_rows():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(count, 3, generator=generator, dtype=torch.float64) for count in (4, 5))

    def kernel(x, y):
        return torch.exp(-(x - y).square().sum() / (2 * 1.5**2)).item()

    within = [
        sum(kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if i != j) / len(x) / (len(x) - 1) for x in (a, b)
    ]
    between = sum(kernel(x, y) for x in a for y in b) / len(a) / len(b)
    assert _mmd.mmd(a, b, 1.5) == pytest.approx(1000 * (sum(within) - 2 * between), rel=1e-12)


def test_sets_of_one_distribution_are_at_zero_on_average():
    generator = torch.Generator().manual_seed(0)
    found = torch.tensor([_mmd.mmd(*torch.randn(2, 20, 4, generator=generator, dtype=torch.float64), 2.0) for _ in range(400)])
    assert abs(found.mean()) < 3 * found.std() / 20
    assert found.min() < 0


def test_one_picture_is_too_few():
    with pytest.raises(InputError, match="two are the least"):
        _mmd.mmd(torch.zeros(1, 3), torch.zeros(4, 3), 1.0)


def features(style, part="train", count=194):
    try:
        return _mmd.features(GlyphNet.compared(parts(style)[part][:count]))
    except InputError as error:
        pytest.skip(str(error))


def test_real_icons_are_near_their_own_style_far_from_others_and_between_them_in_between():
    held_out = features("bold", "test")
    width = _mmd.bandwidth(held_out)
    own, other = features("bold"), features("fill")
    assert abs(_mmd.mmd(own, held_out, width)) < 2
    far = {style: _mmd.mmd(features(style), held_out, width) for style in STYLES[:-1]}
    assert min(far.values()) > 8
    assert far["regular"] < far["light"] < far["thin"]  # by the strokes' weight
    blend = [_mmd.mmd(torch.cat([other[:count], own[count:]]), held_out, width) for count in (0, 48, 97, 146, 194)]
    assert blend == sorted(blend)
