"""Why a network says what it says: where it looked, and which training images are like it."""
