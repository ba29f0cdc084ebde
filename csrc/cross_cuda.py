"""A folder with a CUDA compiler for this machine and CUDA's runtime for aarch64, from NVIDIA's packages of the Python
index: `make plugins-aarch64`.

    python csrc/cross_cuda.py FOLDER

nvcc finds headers and libraries beside itself, so that the folder is a whole toolkit: FOLDER/nvidia/cu13.
"""

import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

BACKEND = Path(__file__).parents[1] / "bridge" / "toolchain" / "build_backend.py"
CUDA_PACKAGES: list[str] = runpy.run_path(str(BACKEND))["CUDA_PACKAGES"]
RUNTIME = "nvidia-cuda-runtime"
# Of what NVIDIA publishes; pip takes a wheel that has any of them.
AARCH64 = ("manylinux_2_34_aarch64", "manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")


def download(packages: list[str], folder: Path, platforms: tuple[str, ...] = ()) -> None:
    """Puts the packages' wheels into a folder: for this machine, or for other platforms."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    chosen = [argument for platform in platforms for argument in ("--platform", platform)]
    subprocess.run([*pip, "--only-binary=:all:", *chosen, "-d", str(folder), *packages], check=True)


def unpack(wheel: Path, folder: Path) -> None:
    """Unpacks a wheel with the permissions of its files, which zipfile drops."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            path = Path(archive.extract(member, folder))
            if mode := member.external_attr >> 16 & 0o777:
                path.chmod(mode)


def main(folder: Path) -> None:
    """Makes the folder, whole or not at all."""
    parts = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(parts, ignore_errors=True)
    wheels = parts / "wheels"
    download([each for each in CUDA_PACKAGES if not each.startswith(RUNTIME)], wheels)
    download([each for each in CUDA_PACKAGES if each.startswith(RUNTIME)], wheels, AARCH64)
    for wheel in sorted(wheels.glob("*.whl")):
        unpack(wheel, parts)
    shutil.rmtree(wheels)
    shutil.rmtree(folder, ignore_errors=True)
    parts.rename(folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit((__doc__ or "").split("\n\n")[1])
    main(Path(sys.argv[1]))
