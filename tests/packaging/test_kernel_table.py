"""csrc/kernel_table.py: what ptxas says of kernels, as a table."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "csrc" / "kernel_table.py"
OUTPUT = """
[1/2] Building CUDA object ops/pointwise/relu.cu.o
ptxas info    : Compiling entry function '_Z4wideILi8EEvPf' for 'sm_90a'
ptxas info    : Function properties for _Z4wideILi8EEvPf
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 9216 bytes smem
ptxas info    : Compiling entry function '_Z6narrowPf' for 'sm_86'
ptxas info    : Function properties for _Z6narrowPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 12 registers, 360 bytes cmem[0]
"""


def table(text):
    done = subprocess.run([sys.executable, SCRIPT], input=text, capture_output=True, text=True)
    return done.returncode, [line.split() for line in done.stdout.splitlines()], done.stderr


def test_a_row_a_kernel():
    code, (heading, *rows), _ = table(OUTPUT)
    assert code == 0 and heading[:2] == ["target", "registers"]
    assert [row[:4] for row in rows] == [["sm_86", "12", "0", "0"], ["sm_90a", "40", "20", "9216"]]
    assert "narrow" in rows[0][4] and "wide" in rows[1][4]


def test_output_without_kernels_is_an_error():
    code, _, err = table("ninja: no work to do.\n")
    assert code == 1 and "build from scratch" in err
