"""Implementations of rotary embeddings, and near misses, for the tests of the pass that rewrites them."""

import torch


def halves(x):
    return x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]


def rotate_half(x):
    first, second = halves(x)
    return torch.cat((-second, first), dim=-1)


def neighbours(x):
    return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)


def full(angles):
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def by_head(tables):
    return [table.unsqueeze(1) for table in tables]


# Each takes x [B, H, S, D] and angles [B, S, D/2], or fewer in partial ones.


def hugging_face(x, angles):
    cos, sin = by_head([table.to(x.dtype) for table in full(angles)])
    return (x * cos) + (rotate_half(x) * sin)


def in_float32(x, angles):
    cos, sin = by_head(full(angles))
    wide = x.float()
    return (rotate_half(wide) * sin + cos * wide).type_as(x)


def with_chunks(x, angles):
    cos, sin = angles.cos().to(x.dtype)[:, None], angles.sin().to(x.dtype)[:, None]
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, torch.addcmul(second * cos, first, sin)), -1)


def with_split_and_stack(x, angles):
    cos, sin = (table.to(x.dtype).unsqueeze(1) for table in (angles.cos(), angles.sin()))
    first, second = torch.split(x, x.shape[-1] // 2, -1)
    rotated = torch.stack([first * cos - sin * second, sin * first + second * cos], dim=-2)
    return rotated.reshape(x.shape)


def backward_rotation(x, angles):
    cos, sin = by_head([table.to(x.dtype) for table in full(angles)])
    first, second = halves(x)
    return x * cos + torch.cat((second, -first), dim=-1) * sin


def subtracted(x, angles):
    cos, sin = by_head([table.to(x.dtype) for table in full(angles)])
    first, second = halves(x)
    return x * cos - torch.cat((second, first.neg()), dim=-1) * sin


def gptj(x, angles):
    cos, sin = (table.to(x.dtype).unsqueeze(1).repeat_interleave(2, 3) for table in (angles.cos(), angles.sin()))
    return x * cos + neighbours(x) * sin


def interleaved_tables_of_angles(x, angles):
    angles = torch.repeat_interleave(angles, 2, dim=-1)
    cos, sin = by_head([angles.cos().to(x.dtype), angles.sin().to(x.dtype)])
    return x.clone().contiguous() * cos + neighbours(x) * sin


def llama_complex(x, angles):
    phases = torch.polar(torch.ones_like(angles), angles)
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * phases.unsqueeze(1)).flatten(3).type_as(x)


def complex_of_parts(x, angles):
    phases = torch.complex(angles.cos(), angles.sin())[:, None]
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(phases * pairs).reshape(x.shape).to(x.dtype)


def deepseek(x, angles):
    cos, sin = by_head([angles.cos().to(x.dtype), angles.sin().to(x.dtype)])
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.cat([even * cos - odd * sin, odd * cos + even * sin], dim=-1)


def partial_half_split(x, angles):
    rotary = 2 * angles.shape[-1]
    cos, sin = by_head([table.to(x.dtype) for table in full(angles)])
    rotary_part, rest = x[..., :rotary], x[..., rotary:]
    return torch.cat((rotary_part * cos + rotate_half(rotary_part) * sin, rest), dim=-1)


def partial_interleaved(x, angles):
    rotary = 2 * angles.shape[-1]
    return torch.cat((gptj(x[..., :rotary], angles), x[..., rotary:]), dim=-1)


def expanded_tables(x, angles):
    cos, sin = (table.to(x.dtype).unsqueeze(1).expand(x.shape) for table in full(angles))
    return x * cos + rotate_half(x) * sin


def tables_of_their_own(x, angles):
    """Tables that are not cos and sin of any angle, and differ between the halves: the op computes this, too."""
    cos, sin = by_head([table.to(x.dtype) for table in full(angles)])
    return x * (cos + 1) + rotate_half(x) * torch.cat((sin[..., :5], cos[..., 5:]), -1).sigmoid().flip(-1)


def tables_of_other_rows(x, angles):
    """The second element of a pair is rotated by the angle of the next position."""
    longer = torch.cat((angles, angles[:, :1]), 1)
    shifted = torch.cat((longer[:, :-1], longer[:, 1:]), -1)
    cos, sin = by_head([shifted.cos().to(x.dtype), shifted.sin().to(x.dtype)])
    return x * cos + rotate_half(x) * sin


def rolled_tables(x, angles):
    cos, sin = by_head([table.to(x.dtype) for table in full(angles)])
    return x * torch.cat((cos[..., 1:], cos[..., :1]), -1) + rotate_half(x) * sin


def swapped_tables(x, angles):
    """cos and sin swapped: a rotation by a quarter turn minus the angle, in the other direction."""
    cos, sin = by_head([table.to(x.dtype) for table in full(angles)])
    return x * sin + rotate_half(x) * cos


WHOLE = [
    swapped_tables,
    tables_of_their_own, rolled_tables, tables_of_other_rows,
    hugging_face, in_float32, with_chunks, with_split_and_stack, backward_rotation, subtracted, gptj,
    interleaved_tables_of_angles, llama_complex, complex_of_parts, deepseek, expanded_tables,
]  # fmt: skip
PARTIAL = [partial_half_split, partial_interleaved]


# Near misses of a rotary embedding, each with a part of the pass's reason; "" if the pass ignores it.


def _variant(combine):
    """hugging_face with another combination of x, its rotated halves, the cosines and the sines."""

    def write(x, angles):
        cos, sin = by_head([table.to(x.dtype) for table in full(angles)])
        return combine(x, rotate_half(x), cos, sin)

    return write


def _scaled_half(x, rotated, cos, sin):
    first, second = halves(x)
    return x * cos + torch.cat((-second, 2 * first), -1) * sin


def _halves_of_sizes(x, rotated, cos, sin):
    return x * cos + torch.cat((-x[..., 6:], x[..., :6]), -1) * sin


def _interleaved_with_halves(x, rotated, cos, sin):
    return x * cos + torch.cat((neighbours(x[..., :8]), x[..., 8:]), -1) * sin


def _swapped_in_table(x, rotated, cos, sin):
    return x * torch.cat((cos[..., 1:2], cos[..., :1], cos[..., 2:]), -1) + rotated * sin


def _swapped_tables(x, rotated, cos, sin):
    return x * torch.cat((cos[..., :8], sin[..., 8:]), -1) + rotated * torch.cat((sin[..., :8], cos[..., 8:]), -1)


def _one_position(x, rotated, cos, sin):
    return x * cos + rotated * sin[:, :, :1]


def _other_axis(x, rotated, cos, sin):
    first, second = x.chunk(2, dim=1)
    return x * cos + torch.cat((-second, first), dim=1) * sin


def _used_twice(x, rotated, cos, sin):
    products = x * cos
    return products + rotated * sin * products


def _per_head(x, rotated, cos, sin):
    heads = torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None, None]
    return x * cos + rotated * (sin * heads)


def _sum_of_three(x, rotated, cos, sin):
    return x * cos + (rotated * sin + cos)


def _of_another(x, rotated, cos, sin):
    return x * cos + rotate_half(x + 1) * sin


NEAR_MISSES = [
    (_variant(lambda x, rotated, cos, sin: x * cos + torch.cat(halves(x)[::-1], -1) * sin), "is lane"),
    (_variant(lambda x, rotated, cos, sin: torch.cat((-halves(x)[0], halves(x)[1]), -1) * sin + x * cos), ""),
    (_variant(lambda x, rotated, cos, sin: x.neg() * cos + rotated * sin), "is lane"),
    (_variant(_scaled_half), "lane 8 is not made of lanes 8 and 0"),
    (_variant(_halves_of_sizes), ""),
    (_variant(_interleaved_with_halves), "is not made of lanes"),
    (_variant(_swapped_in_table), "its cosines do not stand"),
    (_variant(_swapped_tables), "its cosines do not stand"),
    (_variant(_one_position), "vary along different axes"),
    (_variant(_other_axis), ""),
    (_variant(_used_twice), ""),
    (_variant(_per_head), "must be the same for all heads"),
    (_variant(_sum_of_three), ""),
    (_variant(_of_another), ""),
]
