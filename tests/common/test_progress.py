"""What is on the screen while a command computes."""

import os

from common.progress import quiet_native


def test_what_a_library_writes_beside_python_is_not_shown(capfd):
    with quiet_native():
        os.write(2, b"INFO: a delegate\n")
    os.write(2, b"shown\n")
    assert capfd.readouterr().err == "shown\n"
