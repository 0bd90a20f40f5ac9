"""Which jobs of a sweep Hydra composes before the first one runs."""

from hydra.plugins.sweeper import Sweeper

from engine.sweep import composing


def test_one_job_of_each_combination_of_choices_is_composed(monkeypatch):
    composed = []
    monkeypatch.setattr(composing, "_validate_all", lambda sweeper, batch: composed.extend(batch))
    monkeypatch.setattr(Sweeper, "validate_batch_is_legal", Sweeper.validate_batch_is_legal)
    composing.validate_few()
    jobs = [
        [f"model={model}", f"+callbacks={more}", f"optimizer.lr={lr}", f"seed={seed}"]
        for model in ("a", "b") for more in ("x", "y") for lr in (1, 2) for seed in range(50)
    ]  # fmt: skip
    Sweeper.validate_batch_is_legal(object(), jobs)
    assert composed == [
        [f"model={model}", f"+callbacks={more}", "optimizer.lr=1", "seed=0"]
        for model in ("a", "b")
        for more in ("x", "y")
    ]
