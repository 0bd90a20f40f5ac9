"""What is silent while torch exports."""

import threading

from inference.export.preprocessing import quiet


def test_the_exporter_is_silent_and_the_other_threads_are_not(capsys):
    with quiet():
        print("of the exporter")
        other = threading.Thread(target=print, args=("how far it is",))
        other.start()
        other.join()
    assert capsys.readouterr().out == "how far it is\n"
