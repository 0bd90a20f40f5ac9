"""Why a network says what it says: where it looked, and which training pictures are like it."""
