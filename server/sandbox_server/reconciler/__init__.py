"""Makes the engine agree with the store. Safe to run twice; one worker per sandbox at a time."""
