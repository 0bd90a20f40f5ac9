import subprocess
import sys
from fractions import Fraction

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from common.text import (
    capped,
    clean,
    compact_count,
    did_you_mean,
    digits_of_share,
    duration,
    file_size,
    format_confidence,
    format_interval,
    join_words,
    milliseconds,
    numeral,
    plural,
    printable,
    quote_override,
    register_argument,
    shell_join,
    shell_split,
    short_name,
    typed_override,
)


def test_a_last_line_counts_two_lines_or_more():
    """It takes a line itself, so one line is shown in its place."""
    lines = list("abcdefg")
    assert capped(lines, 7) == capped(lines, 6) == lines
    assert capped(lines, 5, "# and {:,} more commands") == ["a", "b", "c", "d", "e", "# and 2 more commands"]


@pytest.mark.parametrize("value", [
    None, True, False, 3, -2, 10**30, 0.1, 1e-5, 1 / 3, 2.0, 1e22, float("inf"), -0.0,
    "adam", "a/b.pth", "/tmp/x", "../a",
    "C:\\x\\", 'a\\"', '\\\\"', "\\", "back\\slash", 'say "no"', "it's", "a b", "", "ä 図", "a\nb",
    "null", "True", "NaN", "inf", "1", ".5",
    "1e-3", "-1", "2026-01-01", "x=1,2", "[1]", "{a:1}", "${seed}", "x${a.b}y", "glob(*)",
    [], [1, [2, "a b"]], {}, {"a": [1], "b": {"c": "d,e"}},
], ids=repr)  # fmt: skip
@pytest.mark.parametrize("platform", ["linux", "win32"])
def test_an_override_is_read_back_by_hydra_with_its_type(value, platform, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    read = OverridesParser.create().parse_override(quote_override("key", value)).value()
    assert read == value and type(read) is type(value)


def test_plain_values_have_no_quotes():
    typed = [("lr", 1e-05), ("x", "/tmp/a_b/c-d.ckpt"), ("list", [1, "a", None]), ("map", {"a": True})]
    assert [quote_override(*each) for each in typed] == [
        "lr=1e-05",
        "x=/tmp/a_b/c-d.ckpt",
        "list=[1,a,null]",
        "map={a:true}",
    ]


def test_on_windows_commands_have_double_quotes_outside(monkeypatch):
    """There, cmd takes single quotes as letters, and PowerShell drops double quotes inside of single ones."""
    monkeypatch.setattr(sys, "platform", "win32")
    assert typed_override("ckpt", r"C:\runs\a b\best.ckpt") == "\"ckpt='C:\\runs\\a b\\best.ckpt'\""
    assert typed_override("ckpt", "runs/best.ckpt") == "ckpt=runs/best.ckpt"
    assert shell_join(["python", r"C:\code\train.py", "a=[1,2]"]) == r'python C:\code\train.py "a=[1,2]"'
    for argument in ("it's here", 'say "no" now', "a b\\", '\\\\" x'):  # Python quotes texts with spaces
        assert shell_join([argument]) == subprocess.list2cmdline([argument])


def test_on_windows_a_backslash_in_a_command_is_a_part_of_a_path(monkeypatch):
    assert shell_split(r"a=C:\images 'b=c d'") == ["a=C:images", "b=c d"]
    monkeypatch.setattr(sys, "platform", "win32")
    assert shell_split(r"a=C:\images 'b=c d'") == [r"a=C:\images", "b=c d"]


def test_untrusted_text_is_one_line_that_steers_nothing():
    assert clean("a\nb\x1b[31m\u202ec\ud800") == "a b [31mc?"
    assert clean("abcdef", 4) == "abc…" and clean("abcd", 4) == "abcd"
    assert printable("a\tb\nc\r") == "a b\nc "


def test_long_names_that_begin_alike_stay_different():
    names = [f"00{n}_Animalia_Arthropoda_Insecta_Hymenoptera_Apidae_Bombus_{n}" for n in range(3)]
    shown = [short_name(name) for name in names]
    assert len(set(shown)) == 3 and all(len(each) == 40 for each in shown)
    assert shown[2] == "002_Animalia_Arthrop…era_Apidae_Bombus_2"
    assert short_name("a\nb", 3) == "a b" and short_name("abcdefg", 5) == "ab…fg"


def test_a_mistyped_name_gets_its_neighbors_first():
    assert did_you_mean("adan", ["sgd", "adam", "adamw"]) == "did you mean adam or adamw? Allowed: adam, adamw, sgd"
    assert did_you_mean("x", {5: 0, "b": 1}) == "allowed: 5, b"
    assert did_you_mean("adan", ["adam"], "did you mean x.adan?") == "did you mean x.adan? Allowed: adam"
    many = [f"layer{n}" for n in range(100, 125)]
    assert did_you_mean("adan", [*many, "adam"]) == "did you mean adam? 25 others are allowed"
    assert did_you_mean("adan", many).startswith("allowed: layer100, ")


def test_lists_and_counts():
    assert [join_words(list("abcdef")[:n]) for n in (0, 1, 2, 6)] == ["none", "a", "a and b", "a, b, c, d and 2 more"]
    assert [plural(n, "seed") for n in (1, 3, 1200)] == ["1 seed", "3 seeds", "1,200 seeds"]


def test_numbers():
    assert [compact_count(n) for n in (None, 5, 999.6, 38_947_204, 2.5e12)] == ["-", "5", "1k", "38.9M", "2.5T"]
    assert [duration(s) for s in (None, 41.24, 59.96, 136, 11_100)] == [
        "-",
        "41.2 s",
        "60.0 s",
        "2 min 16 s",
        "3 h 05 min",
    ]
    assert [milliseconds(ms) for ms in (None, 1e-3, 999.4, 999.6, 12_340, 2.5e6)] == [
        "-", "0.001 ms", "999 ms", "1 s", "12.3 s", "2,500 s",
    ]  # fmt: skip
    sizes = (0, 3_400, 999.4 * 2**10, 2**20, 12.34 * 2**20, 999.9 * 2**20, 1.25 * 2**30)
    assert [file_size(n) for n in sizes] == [
        "0 KiB",
        "3.32 KiB",
        "999 KiB",
        "1 MiB",
        "12.3 MiB",
        "0.976 GiB",
        "1.25 GiB",
    ]
    assert [numeral(text) for text in ("1e-05", "-.5", "3.", "1_0", "nan", "")] == [1e-05, -0.5, 3.0, None, None, None]


@pytest.mark.parametrize("digits", [2, 3])
def test_a_printed_interval_contains_the_interval_and_is_hardly_wider(digits):
    """Of the 1,001 steps from -1 to 1, some have few decimals: those stay as they are."""
    for step in range(1001):
        exact = Fraction(step, 500) - 1
        printed = format_interval(float(exact), float(exact), digits)
        low, high = (Fraction(end) for end in printed.split(" to "))
        assert low <= exact <= high and "-0.000" not in printed
        assert high - low == (0 if exact * 10**digits % 1 == 0 else Fraction(1, 10**digits))


@pytest.mark.parametrize(("confidence", "text"), [
    (0.9123, "0.913"), (0.999, "0.999"), (0.9991, "0.9991"), (0.99999, "0.99999"), (1 - 1e-11, "0.99999999999"), (1.0, "1.000"),
])  # fmt: skip
def test_a_confidence_below_1_does_not_read_1(confidence, text):
    assert format_confidence(confidence) == text and float(text) >= confidence - 1e-12


@pytest.mark.parametrize(
    ("share", "digits"), [(0, 2), (1, 2), (0.45, 2), (0.994, 2), (0.997, 3), (0.003, 3), (0.9999, 4)]
)
def test_only_a_share_of_0_reads_0_and_only_1_reads_1(share, digits):
    assert digits_of_share(share) == digits and (float(f"{share:.{digits}f}") in (0, 1)) == (share in (0, 1))


@pytest.mark.parametrize(("names", "text"), [
    (("truncated", None, "shufflenet_v2_x0_5"), ""),
    (("truncated", None, "resnet18.a1_in1k"), ""),  # of timm, with a tag
    (("my_package.Tiny", None, None), " 'register=[my_package.Tiny]'"),
    (("my.Net", "my.Head", "my.Net"), " 'register=[my.Net,my.Head]'"),
    (("truncated", None, "nets.Tiny"), " 'register=[nets.Tiny]'"),
    (("truncated", None, "my_package.nets.tiny"), " 'register=[my_package.nets.tiny]'"),
    (("truncated", None, "a.b`](http://e)"), ""),  # no name of Python's
])  # fmt: skip
def test_a_command_registers_what_is_the_user_s_own(names, text):
    settings = dict(zip(("model.network", "model.head.name", "model.backbone"), names, strict=True))
    assert register_argument(settings | {"model.name": "a.B"}) == text
