"""What TARGET may name on the command line, and what is said where it names something else."""

from __future__ import annotations

import pytest

from autotune.cli.options import workload_of
from autotune.errors import UsageError
from autotune.spec import FileWorkload


@pytest.mark.parametrize(
    ("target", "remedy"),
    [
        ("model.py:Net", "Write model:Net."),
        ("nets/model.py:Net", "Write model:Net, in the folder nets."),
        ("/home/nets/model.py:make.small", "Write model:make.small, in the folder /home/nets."),
    ],
)
def test_a_class_in_a_file_is_named_by_its_module(target: str, remedy: str) -> None:
    for inputs in ((), ("4",)):
        with pytest.raises(UsageError) as caught:
            workload_of(target, inputs, None, ())
        assert (caught.value.message, caught.value.remedy) == (f"{target} is neither a file nor a class.", remedy)


def test_a_file_is_no_class_though_its_path_has_a_colon() -> None:
    assert workload_of("C:/nets/model.py", (), None, ()) == FileWorkload(target="C:/nets/model.py")
