"""Headers: what the first comment of a file declares, in the words that headers use."""

import pytest

from castor.pipelines.document import Document
from castor.pipelines.sourcecode import licence_headers, licences
from castor.pipelines.sourcecode.licence_headers import PROPRIETARY, PUBLIC_DOMAIN, declared

BSD = """Redistribution and use in source and binary forms, with or without
modification, are permitted provided that the following conditions are met: ..."""
MIT = """Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal"""
APACHE = """Licensed under the Apache License, Version 2.0 (the "License");
you may not use this file except in compliance with the License."""
GPL = """This program is free software; you can redistribute it and/or modify
it under the terms of the GNU {}General Public License as published by
the Free Software Foundation; either version {} of the License, or
(at your option) any later version."""


def header(text, mark="# "):
    return "\n".join(mark + line for line in text.split("\n")) + "\n\nx = 1\n"


@pytest.mark.parametrize(
    "expression, text",
    [
        ("MIT", "SPDX-License-Identifier: MIT"),
        ("Apache-2.0 WITH LLVM-exception", "SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception"),
        ("MIT AND (GPL-2.0-only OR BSD-2-Clause)", "SPDX-License-Identifier: MIT\nSPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause"),
        ("Apache-2.0", "Copyright 2020 The Authors. All Rights Reserved.\n" + APACHE),
        ("Apache-2.0", "Licensed to the Apache Software Foundation (ASF) under one or more\ncontributor license agreements."),
        ("MIT", MIT),
        ("BSD-2-Clause", BSD),
        ("BSD-3-Clause", BSD + "\nNeither the name of the copyright holder nor"),
        ("BSD-4-Clause", BSD + "\n3. All advertising materials mentioning features or use\n4. Neither the name"),
        ("GPL-2.0-or-later", GPL.format("", 2)),
        ("GPL-3.0-or-later", GPL.format("", 3)),
        ("LGPL-2.1-or-later", GPL.format("Lesser ", "2.1")),
        ("AGPL-3.0-or-later", GPL.format("Affero ", 3)),
        ("GPL-2.0-only", "under the terms of the GNU General Public License version 2 as published by"),
        ("MPL-2.0", "This Source Code Form is subject to the terms of the Mozilla Public License, v. 2.0."),
        ("BSL-1.0", "Distributed under the Boost Software License, Version 1.0."),
        ("PSF-2.0", "Licensed to PSF under a Contributor Agreement."),
        ("Unlicense", "This is free and unencumbered software released into the public domain."),
        ("ISC", "Permission to use, copy, modify, and/or distribute this software for any purpose\nwith or without fee is hereby granted"),
        ("MIT", "(c) 2015 Somebody. Released under the MIT license."),
        ("MIT", "jQuery plugin\nLicense: MIT"),
        ("BSD-3-Clause", "Licensed under the 3-clause BSD license"),
        ("MIT OR GPL-2.0-only", "Dual licensed under the MIT or GPL Version 2 licenses."),
        ("MIT OR Apache-2.0", "Licensed under either of Apache License 2.0 or MIT, at your option."),
        ("GPL-2.0-or-later OR MIT", MIT + "\nAlternatively, " + GPL.format("", 2)),
        ("Apache-2.0 AND MIT", APACHE + "\nParts:\n" + MIT),
        (PUBLIC_DOMAIN, "Written by Somebody in 1999 and placed in the public domain."),
        (PROPRIETARY, "Copyright 2020 Acme Corp.\nProprietary and confidential. Unauthorized copying of this file is strictly prohibited."),
        (PROPRIETARY, "This file may not be copied or distributed without the express written permission of Acme."),
        (None, "Copyright 2020 Somebody. All rights reserved."),
        (None, "Use of this source code is governed by a BSD-style\nlicense that can be found in the LICENSE file."),
        (None, "Checks licences of packages."),
        (None, ""),
    ],
)  # fmt: skip
def test_what_headers_declare(expression, text):
    found = {
        declared(header(text)),
        declared(header(text, "// ")),
        declared("/*\n * " + text.replace("\n", "\n * ") + "\n */\nint x;"),
    }
    sides = {frozenset(e.split(" OR ")) if e and " OR " in e and "(" not in e else e for e in found}
    assert sides == {
        frozenset(expression.split(" OR "))
        if expression and " OR " in expression and "(" not in expression
        else expression
    }


def test_only_the_first_comment_counts():
    code = "import re\n\nMIT = '''" + MIT + "'''\nTEXT = 'SPDX-License-Identifier'\n"
    assert declared(code) is None
    assert declared('#!/usr/bin/env python\n"""A module.\n\n' + APACHE + '\n"""\n' + code) == "Apache-2.0"
    assert declared("<?php\n/**\n * @license MIT\n * License: MIT\n */\n") == "MIT"
    assert licence_headers.first_comment("# a\n\n# b\nx\n# c") == "# a\n\n# b"


def test_the_word_of_the_file_replaces_the_repository_s():
    facts = {
        "path": "r/a.py",
        "language": "python",
        "licence": "MIT",
        "licences": ["MIT"],
        "licence_from": ["r/LICENSE"],
    }
    document = Document("0" * 32, "s", "code", header(GPL.format("", 2)), None, facts)
    own = licence_headers.Declare()(document).metadata
    assert (own["licence"], own["licences"], own["licence_from"]) == (
        "GPL-2.0-or-later",
        ["GPL-2.0-or-later"],
        ["r/a.py"],
    )
    assert licence_headers.Declare()(document.replace(text="x = 1")) is not None
    assert licence_headers.Declare()(document.replace(text="x = 1")).metadata == facts
    prose = document.replace(text=MIT).with_metadata(language="markdown")  # a README that quotes a licence is no header
    assert licence_headers.Declare()(prose).metadata["licence"] == "MIT" and licence_headers.Declare()(prose) is prose


def test_ids_and_case():
    assert licences.ids("(MIT OR GPL-2.0-only) AND Apache-2.0 WITH LLVM-exception") == [
        "MIT",
        "GPL-2.0-only",
        "Apache-2.0",
    ]
    assert licences.allows("mit", frozenset({"MIT"})) and licences.allows("LGPL-2.1-or-later", frozenset({"LGPL-2.1"}))
    assert not licences.allows("GPL-2.0-or-later", frozenset(licences.PERMISSIVE))


@pytest.mark.parametrize(
    "unit",
    [
        "# license ",
        "licensed under ",
        "\n",
        "# ",
        "SPDX-License-Identifier:",
        "gnu general public license ",
        "/*",
        '"""',
        "may not be copied ",
    ],
)
def test_traps_end(unit):
    assert declared("# copyright\n" + unit * 50_000) is None or declared("# copyright\n" + unit * 50_000)
