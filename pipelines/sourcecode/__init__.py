"""Source code: languages, licences, imports, notebooks, comments, secrets, and repositories joined into documents."""
