"""What a refining job writes: Parquet shards, the data card, rejects, and the outcome of every record. Readers need no Beam."""
