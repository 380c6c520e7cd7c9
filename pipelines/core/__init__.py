"""What every job is built from: stages, sources, the sandbox, the funnel, dead letters and word lists. Knows no modality."""
