"""Source code: parsing, licences, imports, notebooks, comments, secrets, and repositories laid out as single documents."""
