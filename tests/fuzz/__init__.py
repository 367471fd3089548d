"""Mutated model files, and whether camrt refuses or answers each as it promises.

    python -m tests.fuzz --files 100000 --seed 1 --out fuzzed

`seeds` are small files that load; `mutations` change them, by kinds; `trying` gives one file to camrt and
compares what it answers with plain onnxruntime; `workers` do that in processes that are watched; `journal`
keeps what came of each file; `minimising` makes a file that failed as small as it goes.
"""
