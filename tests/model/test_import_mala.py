"""What a MALA model's pickled scaler may do: nothing but be read."""

from __future__ import annotations

import collections

import pytest
import torch

from ase_ldos.model import import_mala

TARGETS = {
    "torch._utils _rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch.storage _load_from_bytes": torch.storage._load_from_bytes,
    "collections OrderedDict": collections.OrderedDict,
    "mala.datahandling.data_scaler DataScaler": import_mala._Scaler,
}


def build(name: str, *, slots: bool) -> bytes:
    """A pickle that sets the attribute ``mark`` of a global object by the opcode BUILD."""
    state = b"(N(S'mark'\nI1\ndt" if slots else b"(S'mark'\nI1\nd"
    return b"c" + name.replace(" ", "\n").encode() + b"\n" + state + b"b."


@pytest.mark.parametrize("slots", [False, True])
@pytest.mark.parametrize("name", TARGETS)
def test_no_attribute_of_a_function_or_class_can_be_set(name: str, slots: bool) -> None:
    with pytest.raises(ValueError, match="scaler"):
        import_mala._read_scaler(build(name, slots=slots))
    assert not hasattr(TARGETS[name], "mark")


@pytest.mark.parametrize("content", [b"", b".", b"\x80\x04]\x94.", b"N."], ids=["empty", "no stack", "a list", "None"])
def test_other_content_is_one_error(content: bytes) -> None:
    with pytest.raises(ValueError, match="scaler file"):
        import_mala._read_scaler(content)
