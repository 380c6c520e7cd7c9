"""Beam's engines, brought up on one machine: what a job runs on beside Beam's in-process runner, and the bucket it may read and write.

flink.py      a Flink cluster: a job manager, task managers and Beam's job server, each a process of its own
prism.py      Beam's Prism
gcs.py        an emulator of Google Cloud Storage
harness.py    the Python process in which an engine runs a job's code
packages.py   what they are made of: pinned versions, fetched with pip, mvn and go into a folder outside the repository
processes.py  starting, watching and always ending them

with flink.Flink().start() as engine:
    job.run(my_job, engine.options)
"""
