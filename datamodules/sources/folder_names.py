"""What folder names reveal: `train_images` is a split; `fold1` and `grayscale` are parts of a data set, not classes."""

import re
from collections.abc import Sequence

from datamodules.sources.catalog import split_of

# Names of folders that hold data sets; a class has one only by mistake
CONTAINERS = re.compile(
    r"(.*[ _-])?(archive|data|datasets?|images?|imgs?|photos|pict\w*|downloads?|extracted)([ _-]?\d*)?"
)
JOINED = re.compile(r"(.+?)(set|data|images?|imgs?|split|folder)s?", re.IGNORECASE)  # trainset, ValData
# More words for images that a network does not learn from, besides those of catalog.SPLIT_WORDS
OTHER_TESTS = {
    "eval", "evaluation", "holdout", "unseen", "unlabeled", "unlabelled", "pred", "predict", "prediction", "predictions", "tst",
    "submission",
}  # fmt: skip
# The same images in several forms
FORMS = {
    "color", "colour", "colored", "coloured", "gray", "grey", "grayscale", "greyscale", "rgb", "original", "originals", "orig",
    "augmented", "augmentation", "aug", "raw", "processed", "preprocessed", "unprocessed", "segmented", "segmentation", "mask",
    "masks", "masked", "cropped", "crops", "uncropped", "resized", "normalized", "enhanced", "denoised", "synthetic",
}  # fmt: skip
FIRST_FORMS = {"color", "colour", "original", "originals", "orig", "raw", "rgb"}  # the others are made from these
# Parts of a data set that differ by who took the images, when or where
PARTS = {
    "fold", "patient", "subject", "person", "participant", "volunteer", "case", "slide", "session", "batch", "part", "site",
    "hospital", "center", "centre", "camera", "cam", "scanner", "video", "sequence", "visit", "split", "subset", "client",
}  # fmt: skip
# A part drawn at random, which a network cannot recognize; it may recognize a patient or a camera
DRAWN_PART = re.compile(r"(cv[\W_]*)?(fold|split|subset|partition)[\W_]*(\d+|(?<=[\W_])[a-z])")
# Words of numbered classes: grade1 and grade2 are classes
CLASS_WORDS = {
    "class", "label", "type", "grade", "stage", "level", "category", "cat", "species", "object", "digit", "score", "group",
    "kl", "birads", "letter", "degree", "phase", "variety",
}  # fmt: skip


def split_in(name: str) -> str | None:
    """Return the split that a word of a name means: `seg_train`, `Test Set`, `valData`, `holdout`; else None."""
    if split := split_of(name):
        return split
    words = _words(name)
    words += [joined[1] for word in words if (joined := JOINED.fullmatch(word))]
    splits = [split for word in words if (split := split_of(word))]
    if "test" in splits or not OTHER_TESTS.isdisjoint(words) or "hold out" in " ".join(words):
        return "test"  # also for dev-test
    return splits[0] if splits else None


def are_forms(names: Sequence[str]) -> bool:
    """Return whether names mean several forms of the same images, such as color and grayscale."""
    return any(not FORMS.isdisjoint(_words(name)) for name in names)


def is_first_form(name: str) -> bool:
    """Return whether a name means the form that the others are made from, such as color or original."""
    return not FIRST_FORMS.isdisjoint(_words(name))


def are_parts(names: Sequence[str]) -> bool:
    """Return whether names mean folds, patients, sites or data sets, or are numbered: fold1 and fold2, 8863 and 8864, P1."""
    if all(re.fullmatch(r"[\W\d_]+", name) or CONTAINERS.fullmatch(name.casefold()) for name in names):
        return True
    if any(not PARTS.isdisjoint(_words(name)) for name in names):
        return True
    stems = {re.sub(r"(?<=[^\W\d_])[\W_]*\d+$|(?<=[a-z])[A-Z]$|[\W_]+\w$", "", name).casefold() for name in names}
    return len(names) > 1 and len(stems) == 1 and CLASS_WORDS.isdisjoint(_words(stems.pop()))


def are_drawn_parts(names: Sequence[str]) -> bool:
    """Return whether all names are those of drawn parts of a data set, such as fold1 and fold2."""
    return len(names) > 1 and all(DRAWN_PART.fullmatch(name.casefold()) for name in names)


def _words(name: str) -> list[str]:
    """Return the words of a name in lowercase: train and data for `Train_Data`, `TrainData` and `train-data2`."""
    return [word.casefold() for word in re.findall(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![a-z])", name)]
