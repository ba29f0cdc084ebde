"""csrc/kernel_comparison.py: kernels GPU by GPU, from what cuobjdump says of a library."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "csrc" / "kernel_comparison.py"
WIDE, NARROW = "_ZN6bridge11wide_kernelI6__halfLi8EEEvPT_", "_ZN6bridge11wide_kernelIfLi4EEEvPT_"
LINES = {
    "--dump-resource-usage": """
arch = sm_86
 Function {wide}:
  REG:40 STACK:0 SHARED:49152 LOCAL:0 CONSTANT[0]:480 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function {narrow}:
  REG:200 STACK:8 SHARED:0 LOCAL:0 CONSTANT[0]:480 TEXTURE:0 SURFACE:0 SAMPLER:0
arch = sm_90a
 Function {wide}:
  REG:8 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:480 TEXTURE:0 SURFACE:0 SAMPLER:0
""",
    "-elf": """
arch = sm_86
.nv.info.{narrow}
\tAttribute:\tEIATTR_EXIT_INSTR_OFFSETS
\tValue:\t0x20c0 0x3b30
\tAttribute:\tEIATTR_MAX_THREADS
\tFormat:\tEIFMT_SVAL
\tValue:\t0x80 0x1 0x1
""",
    "-sass": """
arch = sm_86
\t\tFunction : {wide}
        /*0000*/                   HMMA.16816.F32 R1, R2, R3, R4 ;     /* 0x00000a00ff017624 */
                                                                       /* 0x000fe400078e00ff */
        /*0010*/              @!P0 LDG.E.128 R4, [R2.64] ;             /* 0x00000a00ff017624 */
        /*0020*/             @!UP1 UIADD3 UR4, UR4, 0x1, URZ ;         /* 0x00000a00ff017624 */
        /*0030*/                   LDGSTS.E.128 [R4], [R2.64] ;        /* 0x00000a00ff017624 */
        /*0040*/                   LDSM.16.M88.4 R4, [R2] ;            /* 0x00000a00ff017624 */
{filler}
\t\tFunction : {narrow}
        /*0000*/                   STL [R1], R2 ;                      /* 0x00000a00ff017624 */
        /*0010*/                   HFMA2.MMA R1, R2, R3, R4 ;          /* 0x00000a00ff017624 */
{filler}
arch = sm_90a
\t\tFunction : {wide}
        /*0000*/                   EXIT ;                              /* 0x00000a00ff017624 */
""",
}
FILLER = "\n".join(f"        /*{16 * n:04x}*/                   MOV R1, R2 ;" for n in range(5, 100))


@pytest.fixture
def compared(tmp_path):
    """Runs the script on a library of which cuobjdump says these lines."""
    for option, text in LINES.items():
        said = text.format(wide=WIDE, narrow=NARROW, filler=FILLER)
        (tmp_path / option.lstrip("-")).write_text(said)
    tool = tmp_path / "cuobjdump"
    tool.write_text(f'#!/bin/sh\ncat "{tmp_path}/$(echo "$1" | sed s/^-*//)" 2>/dev/null\n')
    tool.chmod(0o755)
    environ = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}

    def run(*arguments):
        command = [sys.executable, SCRIPT, *map(str, arguments)]
        return subprocess.run(command, env=environ, capture_output=True, text=True)

    return run


def test_a_row_a_kernel_and_a_column_a_gpu(compared, tmp_path):
    done = compared("lib.so", "--json", tmp_path)
    assert done.returncode == 0, done.stderr
    resources, mixes = (json.loads(path.read_text()) for path in sorted(tmp_path.glob("1*.json")))
    assert resources["columns"] == ["kernel", "instances", "8.6", "9.0"]
    # By registers 4 parts hold 12 warps of 40 each; by shared memory 2 blocks of 8 warps; of 200 registers 8 warps.
    assert resources["rows"] == [["wide_kernel", "2", "40-200 registers, 48 KiB, 8-16 warps, 1 with local memory", "-"]]
    (row,) = mixes["rows"]
    assert row == ["wide_kernel", "197: tensor 1, async 1, global 1, shared 1, local 1, float 1, integer 1", "-"]
    assert "wide_kernel | 2 | 40-200 registers" in done.stdout and resources["notes"] == []


def test_kernels_that_are_worse_off_than_on_the_gpu_they_were_timed_on(compared, tmp_path):
    for option in LINES:
        path = tmp_path / option.lstrip("-")
        of_86 = path.read_text().partition("arch = sm_90a")[0]
        better = of_86.replace("sm_86", "sm_90a").replace("REG:200", "REG:32").replace("STL ", "MOV ")
        path.write_text(of_86 + better)
    assert compared("lib.so", "--json", tmp_path).returncode == 0
    assert json.loads((tmp_path / "11_kernel_resources.json").read_text())["notes"] == [
        "wide_kernel fills 17% of a multiprocessor's warps on 8.6, 100% on 9.0.",
        "1 of 2 wide_kernel use local memory on 8.6, and not on 9.0.",
    ]


def test_a_gpu_that_nothing_is_known_of_is_an_error(compared, tmp_path):
    for option in LINES:
        path = tmp_path / option.lstrip("-")
        path.write_text(path.read_text().replace("sm_86", "sm_66"))
    done = compared("lib.so")
    assert done.returncode == 1 and "LIMITS in kernel_code.py lacks compute capability 66" in done.stderr


def test_a_library_without_kernels_is_an_error(compared, tmp_path):
    for option in LINES:
        (tmp_path / option.lstrip("-")).write_text("")
    done = compared("lib.so")
    assert done.returncode == 1 and "no kernel in lib.so" in done.stderr
