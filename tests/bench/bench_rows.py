"""Rows and runs of bridge bench as they are recorded, and the command."""

from bridge import cli

CEILINGS = {
    "bytes_per_us": 4.0e6,
    "l2_bytes_per_us": 8.0e6,
    "l2_bytes": 5e7,
    "l1_bytes_per_us": 3e7,
    "flops_per_us_float32": 5e7,
    "flops_per_us_float16": 8e8,
    "flops_per_us_bfloat16": 8e8,
    "flops_per_us_tf32": 3e8,
    "launch_us": 1.0,
}


def row(name="large", us=100.0, **changes):
    return {
        "op": "relu",
        "workload": name,
        "dtype": "float16",
        "us": us,
        "low_us": us * 0.99,
        "high_us": us * 1.01,
        "cold_us": us,
        "bytes": 1000,
        "flops": 0,
        "floor_us": 80.0,
        "error": 1e-4,
        "pytorch_error": 2e-4,
        "right": True,
        "peers": {"eager": {"us": 2 * us, "low_us": us, "high_us": us, "bound": False}},
    } | changes


def recorded(*rows, gpu="NVIDIA A GPU"):
    head = {"schema": 1, "gpu": gpu, "driver": "1.2", "date": "2026-01-02", "versions": {"torch": "2.11"}}
    return head | {"ceilings": CEILINGS, "rows": list(rows)}


def command(capsys, *arguments):
    code = cli.main(["bench", *map(str, arguments)])
    return code, *capsys.readouterr()
