"""What settings of the data may be; without torch, so that a mistake is told before seconds are spent on importing it."""

MANY = 1000  # from here on the upper end is one that nobody means to reach


def check_data(
    *,
    source: str,
    root: str | None,
    table: str | None,
    batch_size: int,
    num_workers: int,
    image_size: int,
    split_seed: int,
    train_fraction: float,
    cache_max_gib: float,
    gpu_cache_gib: float,
) -> None:
    """Of the data module.

    Raises:
        ValueError: names the key.
    """
    _check_between(
        ("datamodule.batch_size", batch_size, 1, 2**20),
        ("datamodule.num_workers", num_workers, 0, 1024),
        ("model.image_size", image_size, 1, 4096),
        ("datamodule.split_seed", split_seed, 0, 2**32 - 1),
        ("datamodule.cache_max_gib", cache_max_gib, 0, 1_000_000),
        ("datamodule.gpu_cache_gib", gpu_cache_gib, 0, 1_000_000),
    )
    if source == "image_folder" and root is None and table is None:
        raise ValueError("datamodule.root has no value; give it one: datamodule.root=DIR (or datamodule.table=FILE)")
    if not 0 < train_fraction <= 1:
        raise ValueError(f"datamodule.train_fraction={train_fraction}: use a share above 0 and up to 1")


def check_augmentation(
    *,
    horizontal_flip: float,
    vertical_flip: float,
    rotation_degrees: float,
    color_jitter: float,
    erasing: float,
) -> None:
    """Of the augmentation.

    Raises:
        ValueError: names the key.
    """
    _check_between(
        ("augmentation.horizontal_flip", horizontal_flip, 0, 1),
        ("augmentation.vertical_flip", vertical_flip, 0, 1),
        ("augmentation.rotation_degrees", rotation_degrees, 0, 180),
        ("augmentation.color_jitter", color_jitter, 0, 1),
        ("augmentation.erasing", erasing, 0, 1),
    )


def _check_between(*settings: tuple[str, float, float, float]) -> None:
    for name, value, least, most in settings:
        if not least <= value <= most:
            raise ValueError(
                f"{name}={value}: use {least} " + (f"or more, up to {most:,}" if most > MANY else f"to {most}")
            )
