"""Hot loops on bytes and integers, compiled at first use with numba, each beside a plain-Python twin for the tests.

A kernel takes and returns numpy arrays, knows nothing of artifacts or documents, and holds no state: what calls it
decides what the integers stand for. The compiled code is cached on disk, so that only a user's first run waits for it.
"""
