"""The last lines of a run, and the other places that show its accuracy."""

import logging

import pytest

from common.run_folder import RunFolder
from common.run_record import RunRecord
from datamodules.splits import DROPPED
from engine.run.last_lines import log_verdict
from reports.columns import note
from reports.model_card import model_card
from reports.overview import draw_overview
from reports.smallest_words import answer_sentences
from tests.support.fake_smallest import ALL

CAVEAT = (
    "may be too high for new scenes, and intervals too narrow: 16 groups of near duplicates divided between the splits"
)


@pytest.mark.parametrize(("kind", "leak", "excluded", "expected"), [
    ("group", True, [{"path": "a.png", "reason": "damaged"}], ["may be too high: groups across train and val or test"]),
    ("exact duplicate", True, [], ["may be too high: exact duplicates across train and val or test"]),
    ("exact duplicate", True, [{"path": "a.png", "reason": DROPPED}], []),  # datamodule.on_leak=drop
    ("exact duplicate", False, [], []),
])  # fmt: skip
def test_a_record_of_0_5_0_has_the_caveat_of_a_leak(run, kind, leak, excluded, expected):
    finding = {"kind": kind, "leak": leak, "text": f"{kind}: 1 group"}
    assert RunRecord.read(RunFolder(run("a", data={"audit": [finding], "excluded": excluded}))).data.caveats == expected


def test_every_accuracy_of_a_run_has_the_caveats_of_its_audit_beside_it(run, summary, caplog):
    caplog.set_level(logging.INFO)
    finding = {"kind": "near duplicate", "leak": False, "text": "near duplicate: 400 images in 16 groups"}
    of_0_5_0 = {"kind": "odd", "leak": False, "text": "odd: an image"}  # without the field
    record = RunRecord.read(RunFolder(run("a", data={"audit": [finding | {"caveat": CAVEAT}, of_0_5_0]})))
    log_verdict(record, "test")
    assert caplog.messages[0].startswith("Test accuracy 0.") and caplog.messages[0].endswith(f"; {CAVEAT}")
    assert CAVEAT in [text.get_text() for text in draw_overview(record).figure.texts]
    assert f"Accuracies {CAVEAT}." in model_card(record, "best.ckpt").partition("## Use")[0]
    assert f" Accuracies {CAVEAT}." in note(summary().groups[0])
    found = ALL["shown"]()
    before = answer_sentences(found)
    found.data["caveats"] = [CAVEAT]
    assert [line for line in answer_sentences(found) if line not in before] == [f"accuracies {CAVEAT}"]
