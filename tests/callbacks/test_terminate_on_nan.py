from tests.support.helpers import SIMPLE_CNN


def test_a_nan_loss_ends_the_run(train):
    ran = train("optimizer=sgd", "optimizer.lr=1e30", "trainer.max_epochs=3", *SIMPLE_CNN)
    assert ran.status == 1 and "Traceback" not in ran.err
    for text in ("the loss is ", " at step ", "learning rate 1e+30", ".png", "trainer.gradient_clip_val=1"):
        assert text in ran.err, ran.err
    assert ran.record.status == "failed" and "the loss is" in ran.record.reason


def test_gradients_are_clipped(train):
    ran = train(
        "optimizer=sgd",
        "optimizer.lr=1e30",
        "trainer.gradient_clip_val=1e-32",
        "trainer.max_epochs=1",
        "stages=[fit]",
        *SIMPLE_CNN,
    )
    assert ran.status == 0, ran.err
