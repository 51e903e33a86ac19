"""What happens to a network over time: `train`, and `train_many`.

`run` goes through the epochs, a chunk of steps at a time, on one of the ways in `paths`, which
`planning` chooses; batches come from arrays (`batches`) or from files (`streams`). `checkpoints`
keeps a run on disk.
"""
