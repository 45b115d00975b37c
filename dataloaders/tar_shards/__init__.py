"""Training from tar shards in webdataset's layout, read from disk or through fsspec (docs/SHARDS.md).

addresses -> index (samples of each shard) -> order (who reads what, when) -> reader (stream, tar, samples)
-> dataset and loader (batches).
"""
