"""Pictures on their way to a model: JPEG files are decoded on the GPU, and put into one batch for `bridge.preprocess`.

    images, boxes = bridge.io.batch(bridge.io.decode_jpeg(files))
    x = bridge.preprocess(images, boxes=boxes, layout="nchw", output_size=640, fit="letterbox", dtype="float16")

Nothing is copied to the host on that way: sizes come from the files' headers.
"""

from bridge.io.batches import batch
from bridge.io.jpeg import decode_jpeg

__all__ = ["batch", "decode_jpeg"]
