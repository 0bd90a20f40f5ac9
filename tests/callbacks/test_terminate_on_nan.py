from tests.support.helpers import SIMPLE_CNN


def test_a_nan_loss_ends_the_run(train):
    ran = train("optimizer=sgd", "optimizer.lr=1e30", "trainer.max_epochs=3", *SIMPLE_CNN)
    assert ran.status == 1 and "Traceback" not in ran.err
    for text in ("the loss is ", " at step ", "learning rate 1e+30", ".png", "trainer.gradient_clip_val=1"):
        assert text in ran.err, ran.err
    assert ran.record.status == "failed" and "the loss is" in ran.record.reason


def test_the_learning_rate_is_that_of_the_step_and_not_of_the_next_one(train):
    ran = train("optimizer=sgd", "optimizer.lr=1e30", "trainer.max_steps=3", *SIMPLE_CNN)
    # After one of three steps along half a cosine: (1 + cos(pi / 3)) / 2 = 0.75
    assert ran.status == 1 and "at step 2 (epoch 1, learning rate 7.5e+29)" in ran.err, ran.err


def test_accumulated_batches_share_their_step(train):
    ran = train("optimizer=sgd", "optimizer.lr=1e30", "trainer.accumulate_grad_batches=2", *SIMPLE_CNN)
    assert ran.status == 1 and " at step 2 (epoch 1," in ran.err and "Images of this batch: " in ran.err, ran.err


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
