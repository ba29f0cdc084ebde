"""Engine files with a header of the test's own, in a frame that is right."""

import hashlib
import json
import struct

from bridge.engine_file import container

KEY = "a" * 64


def write(path, header, payload=b"engine"):
    """A file whose frame and checksum are right."""
    encoded = json.dumps(header).encode()
    content = struct.pack("<8sQQQ", container.MAGIC, container.FORMAT, len(encoded), len(payload)) + encoded + payload
    path.write_bytes(content + hashlib.sha256(content).digest())
    return path
