"""The front door: the `castor` command, recipes, reports, and the engines that jobs and runs are started on."""
