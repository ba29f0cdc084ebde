"""Random code near what the passes look for: whatever they replace gives what it gave before."""

import random

import pytest
import torch
import torch.nn.functional as F
from rope_programs import export
from rotary_code import neighbours, rotate_half

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


def halves_by_chance(rng, x):
    """Both halves of x, their ends spelt in many ways; now and then other lanes than that."""
    width = x.shape[-1]
    half = width // 2
    first = [
        lambda: x[..., :half],
        lambda: x[..., -width:-half],
        lambda: x[..., -99:half],
        lambda: x.narrow(-1, -width, half),
        lambda: x.split([half, half], -1)[-2],
        lambda: x.unflatten(-1, (2, -1)).select(-2, -2),
        lambda: x.view(*x.shape[:-1], 2, -1).unbind(-2)[0],
        lambda: x.permute(0, -1, 1, -2)[:, :-half].permute(0, 2, -1, -3),
        lambda: x.transpose(-1, -3)[:, :half].transpose(3, 1),
    ]
    second = [
        lambda: x[..., half:],
        lambda: x[..., -half:],
        lambda: x[..., -half:99],
        lambda: x.narrow(3, -half, half),
        lambda: x.chunk(2, -1)[-1],
        lambda: x.unflatten(-1, (-1, half)).select(3, -1),
        lambda: x[..., 1:][..., half - 1 :],
    ]
    others = [
        lambda: x[..., 1 : half + 1],
        lambda: x[..., -half - 1 : -1],
        lambda: x[..., -half:].flip(-1),
        lambda: x.roll(1, -1)[..., -half:],
        lambda: x.unflatten(-1, (-1, 2)).select(-1, -1),
        lambda: x[..., -half::][..., [-1, 0, 1, 2]],
        lambda: x.contiguous().as_strided((*x.shape[:-1], half), x.contiguous().stride(), 1),
    ]
    return [rng.choice(others if rng.random() < 0.12 else ways)() for ways in (first, second)]


def rotation_of_slices(seed):
    """A rotation whose halves and rows are cut out by numbers that are spelt by chance, or off by one."""

    def rotate(x, angles):
        rng = random.Random(seed)
        count = x.shape[2]

        def turns():
            ways = [
                lambda: angles[:, :count],
                lambda: angles[:, -count - 1 : -1],
                lambda: angles[:, 1:],
                lambda: angles[:, -count:],
                lambda: angles.narrow(1, -count, count),
                lambda: angles[:, ::2][:, :count],
            ]
            return rng.choice(ways)() if rng.random() < 0.4 else angles[:, :count]

        full = torch.cat((turns(), turns()), -1)
        first, second = halves_by_chance(rng, x)
        return x * full.cos().unsqueeze(1) + torch.cat((-second, first), -1) * full.sin()[:, None]

    return rotate, (torch.randn(2, 3, 5, 8), torch.randn(2, 10, 4))


def level_by_chance(rng, value, start, shape):
    """A level of value [N, S, H, D] as [N, height width, H, D], its ends spelt in many ways; or other positions."""
    total, (height, width) = value.shape[1], shape
    count = height * width
    end = start + count
    ways = [
        lambda: value[:, start:end],
        lambda: value[:, start - total : end],
        lambda: value[:, start - total : end - total or None],
        lambda: value.narrow(1, start - total, count),
        lambda: value[:, start:][:, :count],
        lambda: value[:, max(start - 1, 0) :][:, -(total - start) :][:, :count],
        lambda: value.split([start, count, total - end], -3)[-2],
        lambda: value.transpose(1, -1)[..., start - total : end].transpose(-1, 1),
    ]
    others = [
        lambda: value[:, start - total - 1 :][:, :count],
        lambda: value.flip(1)[:, start:end],
        lambda: value[:, ::2][:, :count],
        lambda: value.unflatten(1, (2, -1))[:, :, -width:].flatten(1, 2)[:, :count],
        lambda: value.unflatten(1, (-1, 2))[:, -height:].flatten(1, 2)[:, -count:],
        lambda: value.roll(1, 1)[:, start:end],
    ]
    return rng.choice(others if rng.random() < 0.2 else ways)()


def attention_of_slices(seed):
    """Deformable attention whose levels are cut out by numbers that are spelt by chance, or are others."""

    def attend(value, locations, weights):
        rng = random.Random(seed)
        samples = []
        for level in range(2):
            shape = rng.choice([(2, 2), (1, 2), (2, 1), (1, 1)])
            start = rng.randrange(8 - 4)
            part = level_by_chance(rng, value, start, shape)
            maps = part.permute(0, -2, -1, 1).reshape(4, -1, *shape)
            place = rng.choice([level, level - 2]) if rng.random() < 0.9 else 1 - level
            picks = [
                lambda place=place: locations.select(3, place),
                lambda place=place: locations.unbind(-3)[place],
                lambda place=place: locations.narrow(3, place, 1).squeeze(-3),
                lambda place=place: locations[:, :, :, place:][:, :, :, 0],
            ]
            grid = (2 * rng.choice(picks)() - 1).transpose(1, -3).flatten(0, -4)
            samples.append(F.grid_sample(maps, grid, align_corners=False))
        joined = torch.stack(samples, rng.choice([-2, 3])).flatten(*rng.choice([(-2, -1), (3, 4)]))
        weights = weights.transpose(1, -3).reshape(4, 1, 2, 4) if rng.random() < 0.1 else weights
        weights = weights if weights.dim() == 4 else weights.transpose(1, -3).flatten(0, -4).flatten(-2).unsqueeze(-3)
        return (joined * weights).sum(rng.choice([-1, 3])).view(2, -1, 2).transpose(-1, 1)

    return attend, (torch.randn(2, 8, 2, 2), torch.rand(2, 2, 2, 2, 2, 2), torch.rand(2, 2, 2, 2, 2))


KINDS = [
    (rotation, "rope"),
    (rotation_of_slices, "rope"),
    (attention, "ms_deform_attn"),
    (attention_of_slices, "ms_deform_attn"),
]


@pytest.mark.parametrize(("make", "name"), KINDS)
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
