"""Building blocks of every job: stages, sources, sandbox, funnel, dead letters, word lists. Independent of modality."""
