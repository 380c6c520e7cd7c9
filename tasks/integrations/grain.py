"""Grain integration: the batches of a mixture as a random-access data source.

    import grain
    from castor.tasks.integrations.grain import BatchSource

    source = BatchSource("out/tasks/web", steps=range(1000, 2000), batch_size=8, lengths={"targets": 512}, seed=0)
    ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    for batch in grain.MapDataset.source(source).to_iter_dataset(ahead):    # steps 1000, 1001, ...; dicts of arrays
        ...

    sampler = grain.samplers.SequentialSampler(num_records=len(source), shard_options=grain.sharding.NoSharding())
    loader = grain.DataLoader(data_source=source, sampler=sampler, worker_count=2, read_options=ahead)

Order, mixing and packing are already decided: add no shuffle, batch or sharding of Grain, and give each host its
`shard` and `num_shards`. A loader's saved state contains the source's `repr`, which is equal for all shards, so it
loads on any number of hosts. Set the prefetch size: Grain's default, 16 threads and 500 elements, is meant for
records, and an element here is a complete batch.
"""

try:
    import grain
except ImportError as error:
    from castor.tasks.errors import ConfigurationError

    raise ConfigurationError("tasks.grain needs Grain, which is not installed.", "Install castor[grain].") from error

from castor.tasks.integrations import batch_source


class BatchSource(batch_source.BatchSource, grain.sources.RandomAccessDataSource):
    """A grain.sources.RandomAccessDataSource whose element i is the batch of step steps[i]; see
    batch_source.BatchSource.
    """
