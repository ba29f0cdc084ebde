"""The engines that are served, built once for a file of tests, and repositories with them."""

import shutil
from pathlib import Path

import pytest
from served_models import DYNAMIC, MODELS, PLAIN, everything

import bridge
from bridge.export.formats import export
from bridge.export.options import Options


@pytest.fixture(scope="module")
def everything_file():
    model = MODELS["everything"].eval()
    return bridge.compile(model, everything(), dynamic_shapes=DYNAMIC, target="sm86", cache=False).file


@pytest.fixture(scope="module")
def plain_file():
    return bridge.compile(MODELS["plain"].eval(), PLAIN, target="sm86", cache=False).file


@pytest.fixture(scope="session")
def write_model():
    """Puts an engine into a repository, as a model for a machine without a GPU; returns the model's folder.

    stand_in: see stand_in.py.
    """

    def write(file, repository: Path, name: str, stand_in: bool = False, **options) -> Path:
        written = repository.with_name(f"{name}-export")
        export(file, written, "triton", options=Options(name, **options))
        model = Path(shutil.move(written / name, repository / name))
        config = model / "config.pbtxt"
        config.write_text(config.read_text().replace("KIND_GPU", "KIND_CPU"))
        if stand_in:
            for path in ("stand_in.py", "served_models.py"):
                shutil.copy(Path(__file__).with_name(path), model / "1")
            with (model / "1/model.py").open("a") as script:
                script.write("\nimport stand_in\n\nstand_in.install()\n")
        return model

    return write
