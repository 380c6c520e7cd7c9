"""Jobs from the outside: definition, configuration, running and committing, replay, detached submission, explain."""
