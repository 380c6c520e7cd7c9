"""HTML pages about a whole run: a recipe's report and a compile report. They only read records and files."""
