"""Random code near what the passes look for: whatever they replace gives what it gave before."""

import random

import pytest
import torch
import torch.nn.functional as F
from rotary_code import neighbours, rotate_half
from test_passes_rope import export

from bridge.passes import rewrite

CASES = 25  # of each kind; hundreds were run once


def moved(rng, x):
    """Lanes of x in another order, or with other signs."""
    half = x.shape[-1] // 2
    ways = [
        lambda: -x,
        lambda: x.flip(-1),
        lambda: rotate_half(x),
        lambda: neighbours(x),
        lambda: torch.cat((x[..., half:], x[..., :half]), -1),
        lambda: torch.cat((x[..., ::2], x[..., 1::2]), -1),
        lambda: x * 2,
        lambda: torch.roll(x, 1, -1),
    ]
    return rng.choice(ways)()


def rotation(seed):
    """x cos + x' sin with tables, x', signs and order by chance."""

    def table(rng, function, angles):
        ways = [
            lambda: function(torch.cat((angles, angles), -1)),
            lambda: function(torch.cat((angles, 2 * angles), -1)),
            lambda: function(angles).repeat_interleave(2, -1),
        ]
        found = rng.choice(ways)()
        return (moved(rng, found) if rng.random() < 0.2 else found).unsqueeze(1)

    def rotate(x, angles):
        rng = random.Random(seed)
        cos, sin = (table(rng, function, angles) for function in (torch.cos, torch.sin))
        x = moved(rng, x) if rng.random() < 0.3 else x
        turned = rng.choice([rotate_half, neighbours])(x) if rng.random() < 0.8 else moved(rng, x)
        result = x * cos + turned * sin if rng.random() < 0.7 else x * cos - turned * sin
        result = torch.cat((result, x), -1) if rng.random() < 0.2 else result
        return moved(rng, result) if rng.random() < 0.2 else result

    return rotate, (torch.randn(2, 3, 5, 8), torch.randn(2, 5, 4))


def attention(seed):
    """Deformable attention whose every extent is 2, with axes swapped by chance."""

    def attend(value, locations, weights):
        rng = random.Random(seed)

        def swapped(x, axes, chance=0.12):
            return x.transpose(*rng.sample(axes, 2)) if rng.random() < chance else x

        value = swapped(value, [0, 2, 3])
        grids = swapped(2 * swapped(locations, [0, 1, 2, 3, 4]) - 1, [0, 1, 2, 3, 4])
        samples = []
        for level, part in enumerate(value.split([4, 4], 1)):
            maps = swapped(part.flatten(2).transpose(1, 2).reshape(4, 2, 2, 2), [1, 2, 3])
            grid = swapped(grids[:, :, :, level], [0, 1, 2, 3]).transpose(1, 2).flatten(0, 1)
            samples.append(F.grid_sample(maps, swapped(grid, [1, 2]), align_corners=False))
        joined = swapped(torch.stack(samples, rng.choice([-2, -2, -2, -1])).flatten(-2), [1, 2])
        weights = swapped(swapped(weights, [0, 1, 2, 3, 4]).transpose(1, 2), [0, 1, 2, 3, 4]).reshape(4, 1, 2, 4)
        return swapped((joined * weights).sum(-1), [1, 2]).view(2, 4, 2).transpose(1, 2).contiguous()

    return attend, (torch.randn(2, 8, 2, 2), torch.rand(2, 2, 2, 2, 2, 2), torch.rand(2, 2, 2, 2, 2))


@pytest.mark.parametrize(("make", "name"), [(rotation, "rope"), (attention, "ms_deform_attn")])
def test_what_is_replaced_is_the_same(make, name):
    torch.manual_seed(0)
    replaced = 0
    for seed in range(CASES):
        function, args = make(seed)
        try:
            expected = function(*args)
        except RuntimeError:  # swapped axes that a view does not allow
            continue
        program = export(function, args)
        found, outcomes = rewrite(program, [name])
        if found is not program:
            replaced += 1
            torch.testing.assert_close(found.module()(*args), expected, msg=f"seed {seed}: {outcomes}")
    assert 3 <= replaced < CASES
