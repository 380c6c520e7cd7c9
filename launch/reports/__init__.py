"""HTML pages about a whole run: a recipe's report and a compile report. They read records and files, and run nothing."""
