"""Computations by many workers: threads, processes, GPUs, and other machines.

An executor of `concurrent.futures` or Dask gives the workers. Independent parts of a computation
are its tasks, and data that all parts share travel once to each worker.

shared_parts  the parts of a job, computed by many workers
vectors       a linear map applied to many vectors, in chunks
delivery      jobs, and how they reach workers
workers       workers: slots in an executor, and own processes
processes     processes on this machine as an executor
dask_workers  an executor of Dask
"""
