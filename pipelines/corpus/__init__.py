"""The output of a refining job: Parquet shards, data card, rejects and record outcomes. Readers need no Beam."""
