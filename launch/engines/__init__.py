"""Execution engines started on this machine, and the submission of jobs to Dataflow.

flink.py      a Flink cluster: job manager, task managers and Beam's job server, each in its own process
prism.py      Beam's Prism runner
dataflow.py   a job's options and graph, validated offline and submitted to Dataflow
local_pod.py  one training run as several processes, as on a pod
gcs.py        an emulator of Google Cloud Storage
harness.py    the Python worker process in which an engine runs a job's code
packages.py   pinned engine binaries, fetched with pip, mvn and go into a folder outside the repository
processes.py  starts, watches and stops child processes

with flink.Flink().start() as engine:
    job.run(my_job, engine.options)
"""
