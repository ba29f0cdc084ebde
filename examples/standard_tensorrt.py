"""Shows on a GPU that engines with plugins are right, by each door. Without one it builds them with TensorRT-RTX."""

import torch

import bridge


class Net(torch.nn.Module):
    def forward(self, x, table):
        q, k = bridge.rope(x, x, table, table)
        return bridge.relu(q + k, 0.1)


gpu = torch.cuda.is_available()
model = Net().eval()
inputs = [torch.randn(shape, device="cuda" if gpu else "cpu") for shape in ((2, 4, 8, 32), (8, 16))]
target, shapes = None if gpu else "sm86", {"x": {0: torch.export.Dim("batch", min=1, max=4)}, "table": None}
doors = [bridge.compile(model, inputs, dynamic_shapes=shapes, target=target, lowering=w) for w in ("plugin", "native")]
if gpu:
    import torch_tensorrt

    doors.append(torch.compile(model, backend="bridge"))
    doors.append(torch_tensorrt.compile(model, ir="dynamo", inputs=inputs, min_block_size=1))
    for door in doors:
        torch.testing.assert_close(door(*inputs), model(*inputs), rtol=1e-3, atol=1e-3)
print(f"{len(doors)} engines {'are right' if gpu else 'are built'}")
