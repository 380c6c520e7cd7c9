"""A job from the outside: what a job is, its configuration, running and committing, replay, detached submission, explaining one record."""
