"""Multi-scale deformable attention as models write it with grid_sample, and its arguments."""

import torch
import torch.nn.functional as F
from torch.export import Dim

OP = torch.ops.bridge.ms_deform_attn.default
HEADS, HEAD_DIM, POINTS = 2, 4, 3
LEVELS = ((4, 5), (2, 3), (1, 2))
BATCH, QUERIES = Dim("batch", min=1, max=4), Dim("queries", min=1, max=64)


def arguments(batch=2, queries=6, levels=LEVELS, dtype=torch.float32):
    """value [N, S, H D], locations [N, Q, H, L, P, 2] and logits [N, Q, H, L P]."""
    generator = torch.Generator().manual_seed(batch + queries)
    positions = sum(height * width for height, width in levels)
    value = torch.randn(batch, positions, HEADS * HEAD_DIM, generator=generator)
    locations = torch.rand(batch, queries, HEADS, len(levels), POINTS, 2, generator=generator) * 1.4 - 0.2
    logits = torch.randn(batch, queries, HEADS, len(levels) * POINTS, generator=generator)
    return tuple(tensor.to(dtype) for tensor in (value, locations, logits))


DYNAMIC = ({0: BATCH}, {0: BATCH, 1: QUERIES}, {0: BATCH, 1: QUERIES})


def cut(value, levels=LEVELS):
    """[N, S, H D] as maps of [N H, D, height, width]."""
    n = value.shape[0]
    parts = value.view(n, -1, HEADS, HEAD_DIM).split([height * width for height, width in levels], dim=1)
    return [
        part.flatten(2).transpose(1, 2).reshape(n * HEADS, HEAD_DIM, *level)
        for part, level in zip(parts, levels, strict=True)
    ]


def weigh(samples, weights):
    """[N, Q, H D] of samples of [N H, D, Q, L P] and weights [N, Q, H, L P]."""
    n, queries = weights.shape[:2]
    weights = weights.transpose(1, 2).reshape(n * HEADS, 1, queries, -1)
    return (samples * weights).sum(-1).view(n, HEADS * HEAD_DIM, queries).transpose(1, 2).contiguous()


def softmax(logits):
    return logits.softmax(-1)


def deformable_detr(value, locations, logits, *, sample=F.grid_sample, levels=LEVELS, normalize=softmax):
    grids = 2 * locations - 1
    samples = [
        sample(level, grids[:, :, :, place].transpose(1, 2).flatten(0, 1), align_corners=False)
        for place, level in enumerate(cut(value, levels))
    ]
    return weigh(torch.stack(samples, dim=-2).flatten(-2), normalize(logits))


def on_grids(value, locations, logits, scale, order=(0, 1, 2), maps=None):
    """All grids at once, scaled as given, and levels in another order or of another tensor."""
    grids = scale(locations)
    samples = [
        F.grid_sample(level, grids[:, :, :, place].transpose(1, 2).flatten(0, 1), align_corners=False)
        for place, level in zip(order, maps or cut(value), strict=True)
    ]
    return weigh(torch.stack(samples, dim=-2).flatten(-2), logits.softmax(-1))


def rt_detr_v2(value, locations, logits):
    n, queries = logits.shape[:2]
    maps = value.view(n, -1, HEADS, HEAD_DIM).permute(0, 2, 3, 1).flatten(0, 1)
    maps = maps.split([height * width for height, width in LEVELS], dim=-1)
    grids = 2 * locations.view(n, queries, HEADS, -1, 2) - 1
    grids = grids.permute(0, 2, 1, 3, 4).flatten(0, 1).split([POINTS] * len(LEVELS), dim=-2)
    samples = [
        F.grid_sample(part.reshape(n * HEADS, HEAD_DIM, *level), grid, align_corners=False)
        for part, grid, level in zip(maps, grids, LEVELS, strict=True)
    ]
    weights = logits.softmax(-1).permute(0, 2, 1, 3).reshape(n * HEADS, 1, queries, -1)
    output = (torch.concat(samples, dim=-1) * weights).sum(-1).view(n, HEADS * HEAD_DIM, queries)
    return output.transpose(1, 2).contiguous()


def heads_first(value, locations, logits):
    """With slices for splits, unbind for indexing, levels and points summed one dimension each, factors swapped."""
    n, queries = logits.shape[:2]
    value = value.unflatten(-1, (HEADS, HEAD_DIM)).permute(0, 2, 3, 1)
    samples, start = [], 0
    for (height, width), grid in zip(LEVELS, (locations * 2 - 1).unbind(3), strict=True):
        level = value[..., start : start + height * width].reshape(-1, HEAD_DIM, height, width)
        grid = grid.permute(0, 2, 1, 3, 4).reshape(n * HEADS, queries, POINTS, 2)
        samples.append(F.grid_sample(level, grid, align_corners=False))
        start += height * width
    weights = logits.softmax(-1).unflatten(-1, (len(LEVELS), POINTS)).transpose(1, 2).flatten(0, 1).unsqueeze(1)
    total = (weights * torch.stack(samples, 3)).sum((-2, -1))
    return total.unflatten(0, (n, HEADS)).permute(0, 3, 1, 2).flatten(2)


def calls(program):
    return program.graph.find_nodes(op="call_function", target=OP)


class Maps(torch.nn.Module):
    """Attention to two images, whose extents are the levels'."""

    def forward(self, large, small, locations, logits):
        n, samples, values = large.shape[0], [], []
        for image in (large, small):
            values.append(image.flatten(2).transpose(1, 2).unflatten(-1, (HEADS, HEAD_DIM)))
        parts = torch.cat(values, 1).split([value.shape[1] for value in values], 1)
        for place, (part, image) in enumerate(zip(parts, (large, small), strict=True)):
            level = part.flatten(2).transpose(1, 2).reshape(n * HEADS, HEAD_DIM, *image.shape[2:])
            grid = (2 * locations - 1)[:, :, :, place].transpose(1, 2).flatten(0, 1)
            samples.append(F.grid_sample(level, grid, align_corners=False))
        return weigh(torch.stack(samples, -2).flatten(-2), logits.softmax(-1))

    @staticmethod
    def example(height=4, width=6):
        _, locations, logits = arguments(levels=((4, 6), (2, 3)))
        shapes = (2, HEADS * HEAD_DIM, 2 * height, 2 * width), (2, HEADS * HEAD_DIM, height, width)
        return *(torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in shapes), locations, logits
