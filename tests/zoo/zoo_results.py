"""A run of the zoo for tests: a model that was measured in every way, and one that was not begun."""

RESULT = {
    **{"schema": 1, "gpu": "NVIDIA A GPU", "driver": "1.2", "date": "2026-01-02", "versions": {"torch": "2.11"}},
    "full": True,
    "rows": [
        {
            **{"model": "one", "about": "a size", "argv": ["--x", "1"], "dtype": "float16", "inputs": [[2, 3], [4]]},
            "parameters": 1_500_000,
            "ways": {
                "bridge": {
                    **{"us": 1234.0, "cuda_graph": {"us": 900.0}, "error": 1e-3, "graph_error": 0.0, "engines": 1},
                    **{"graph_breaks": 0, "plugins": {"rope": 2}, "target": "sm90", "tensorrt": "tensorrt_rtx 1.7"},
                    "memory_mib": 512,
                },
                "eager": {"us": 2e4, "memory_mib": 768},
                "native": {"us": 1500.0},
                "inductor": {"failed": "RuntimeError: a | b", "memory_mib": 1024},
                "torch_tensorrt": {"us": 3000.0, "engines": 3, "graph_breaks": 2, "memory_mib": 640},
            },
        },
        {"model": "two", "argv": [], "failed": "not begun"},
    ],
}
