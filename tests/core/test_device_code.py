"""For which GPUs a library holds code."""

import pytest

from bridge.core import libraries
from bridge.core.device_code import DeviceCode, device_codes, is_compiled_fast, lacking_text
from bridge.core.library import LIBRARIES
from bridge.errors import LibraryError


@pytest.mark.parametrize(
    ("codes", "target", "runs"),
    [
        ([DeviceCode(86, False)], "sm86", True),
        ([DeviceCode(86, False)], "sm89", True),
        ([DeviceCode(86, False)], "sm80", False),
        ([DeviceCode(86, False)], "sm120", False),
        ([DeviceCode(86, True)], "sm120", True),
        ([DeviceCode(86, True)], "sm80", False),
        ([DeviceCode(90, False, True)], "sm90", True),
        ([DeviceCode(90, True, True)], "sm100", False),
        ([DeviceCode(80, False), DeviceCode(120, False)], "sm121", True),
        ([DeviceCode(80, False), DeviceCode(86, False)], "sm87", False),
        ([DeviceCode(87, False)], "sm87", True),
        ([DeviceCode(87, False)], "sm89", False),
        ([DeviceCode(80, True)], "sm87", True),
        ([], "sm80", True),
    ],
)
def test_code_runs_where_cuda_says_so(codes, target, runs):
    assert (lacking_text(codes, target) is None) == runs


def test_what_is_no_library_holds_no_known_code(tmp_path):
    for content in (b"", b"no ELF", b"\x7fELF\x02 cut off"):
        path = tmp_path / f"{len(content)}.so"
        path.write_bytes(content)
        assert device_codes(path) == () and not is_compiled_fast(path)


@pytest.mark.parametrize("damaged", [slice(6, 16), slice(20, 32)], ids=["a fat binary", "an entry of one"])
def test_lengths_of_nothing_end(damaged, tmp_path):
    """As long as the test lasts; a file may say anything."""
    library = LIBRARIES["bridge"].find("plugins")
    if library is None:
        pytest.skip("needs bridge's native libraries")
    content = bytearray(library.read_bytes())
    start = content.find(b"\x50\xed\x55\xba")
    content[start + damaged.start : start + damaged.stop] = bytes(damaged.stop - damaged.start)
    (tmp_path / "damaged.so").write_bytes(content)
    assert set(device_codes(tmp_path / "damaged.so")) <= set(device_codes(library))


def test_a_table_of_sections_that_is_not_there(tmp_path):
    content = bytearray(200)
    content[:5] = b"\x7fELF\x02"
    content[0x3A:0x40] = (64).to_bytes(2, "little") + (1).to_bytes(2, "little") + (9).to_bytes(2, "little")
    (tmp_path / "damaged.so").write_bytes(content)
    assert device_codes(tmp_path / "damaged.so") == ()


def test_bridges_own_library_holds_code():
    path = LIBRARIES["bridge"].find("plugins")
    if path is None:
        pytest.skip("needs bridge's native libraries")
    assert device_codes(path) and device_codes(path) == device_codes(LIBRARIES["bridge"].find("torch"))


def test_libraries_that_do_not_exist_are_named():
    with pytest.raises(LibraryError, match=r"there is no library nowhere; there are .*bridge.*bridge\.load_ops"):
        libraries.library("nowhere")
