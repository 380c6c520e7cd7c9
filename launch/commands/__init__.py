"""One file per subcommand of `castor`: its arguments, its checks, and the call of the room that does the work.

A command imports JAX, Beam or TensorFlow inside `run`, so that `castor --help` stays quick.
"""
