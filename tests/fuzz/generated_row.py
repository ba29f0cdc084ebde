"""What an engine file tells of a generated plugin."""

GENERATED = {
    "name": "acme::norm_0123456789ab",
    "operator": "acme::norm",
    "inputs": [
        {"name": "x", "dtype": "float16", "shape": ["n0: 1 to 8", 64]},
        {"name": "bias", "dtype": None, "shape": None},
    ],
    "kernel_count": 1,
    "kernels": [{"function": "row", "file": "n.py", "line": 3, "variants": 2, "configurations": ["BLOCK=64"]}],
    "region_count": 1,
    "regions": [{"conditions": "", "launches": 2}],
    "workspace_bytes": 256,
    "cubin_bytes": 12_000,
    "compressed_bytes": 3000,
    "library_bytes": 400_000,
    "seconds": 1.5,
}
