"""A job from the outside: its configuration, running and committing it, replay, detached submission, and explaining one record."""
