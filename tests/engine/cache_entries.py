"""Keys of a cache, and what its tests do with entries."""

A, B, C = "a" * 64, "b" * 64, "c" * 64


def refuse():
    raise AssertionError("built, though the cache has it")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
