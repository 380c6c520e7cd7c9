"""Secrets: every public format wherever code stores one, no false positives, and code that still parses afterwards.

The secrets here are generated from a fixed alphabet: none was ever issued, and none appears whole in this file.
"""

import ast
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from castor.pipelines.document import Document
from castor.pipelines.sourcecode import secrets

_LETTERS = "aB3dE6gH9jK2mN5pQ8sT1vW4xY7zC0fR"
_UPPER = "Q3RT6YUI2OPA5SDF7GHJ4KLZ"


def drawn(count, alphabet=_LETTERS):
    return "".join(itertools.islice(itertools.cycle(alphabet), count))


SECRETS = {
    "aws_access_key": "AK" + "IA" + drawn(16, "QRT6YUI2OPA5SDF7"),
    "google_api_key": "AI" + "za" + drawn(35),
    "google_oauth_token": "ya" + "29." + drawn(40),
    "github_token": "gh" + "p_" + drawn(36),
    "gitlab_token": "gl" + "pat-" + drawn(20),
    "slack_token": "xo" + "xb-123456789012-" + drawn(24),
    "slack_webhook": "hooks.slack" + ".com/services/T" + drawn(8) + "/B" + drawn(8) + "/" + drawn(24),
    "stripe_key": "sk" + "_live_" + drawn(24),
    "jwt": "ey" + "J" + drawn(20) + ".ey" + "J" + drawn(30) + "." + drawn(43),
    "npm_token": "np" + "m_" + drawn(36),
    "pypi_token": "py" + "pi-AgE" + drawn(60),
    "sendgrid_key": "S" + "G." + drawn(22) + "." + drawn(43),
    "openai_key": "s" + "k-" + drawn(48),
    "anthropic_key": "s" + "k-ant-" + drawn(40),
    "huggingface_token": "h" + "f_" + drawn(34, "abcDEFghiJKLmnoPQRstuVWX"),
    "digitalocean_token": "do" + "p_v1_" + drawn(64, "0a1b2c3d4e5f6789"),
    "shopify_token": "sh" + "pat_" + drawn(32, "0a1b2c3d4e5f6789"),
    "square_token": "sq" + "0atp-" + drawn(22),
    "docker_token": "dc" + "kr_pat_" + drawn(27),
    "databricks_token": "da" + "pi" + drawn(32, "0a1b2c3d4e5f6789"),
    "age_key": "AGE-SEC" + "RET-KEY-1" + drawn(58, _UPPER),
    "telegram_token": "123456789" + ":A" + "A" + drawn(33),
}
PLACES = {
    "python": 'client = connect("{}")  # staging\n',
    "shell": "export SERVICE={}\n",
    "yaml": "service:\n  value: {}\n",
    "json": '{{"value": "{}"}}',
    "url": 'get("https://api.invalid/v1?x={}&y=1")\n',
    "comment": "// used {} before\n",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", SECRETS)
def test_formats_in_their_places(kind, place):
    text = "x = 1\n" * (place == "python") + PLACES[place].format(SECRETS[kind])
    cleaned, counts = secrets.replace(text)
    assert counts == {kind: 1} and cleaned == text.replace(SECRETS[kind], f"REDACTED_{kind.upper()}")
    assert secrets.find(cleaned) == []
    if place == "python":
        ast.parse(cleaned)
    if place == "json":
        json.loads(cleaned)


def test_every_format_is_tested():
    assert set(SECRETS) | {"azure_key", "private_key", "url_password", "aws_secret_key", "password", "secret"} == set(
        secrets.KINDS
    )


@pytest.mark.parametrize(
    "kind, text, value",
    [
        ("aws_secret_key", 'AWS_SECRET_ACCESS_KEY = "{}"', "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        ("aws_secret_key", "aws_secret_access_key={}", drawn(40)),
        ("secret", 'config["api_key"] = "{}"', drawn(24)),
        ("secret", "const authToken: string = '{}';", drawn(32)),
        ("secret", '"client_secret": "{}",', drawn(28)),
        ("secret", "API_TOKEN={}", drawn(32, "0a1b2c3d4e5f6789")),
        ("secret", "secret_key_base: {}", drawn(64, "0a1b2c3d4e5f6789")),
        ("secret", ":access_token => '{}'", drawn(20)),
        ("password", "db.password = '{}'", "Tr0ub4dor&3"),
        ("password", 'PASSWORD: "{}"', "gL9#kd72hs"),
        ("password", "a=1\nexport DB_PASSWORD={}\nb=2", "gL9#kd72hs"),
        ("password", "db:\n  - password: {}\n", "gL9#kd72hs"),
        ("password", 'c = "Server=db.invalid;User ID=a;Password={};"', "gL9!kd72hs"),
        ("secret", 'curl -H "Authorization: Bearer {}"', drawn(32)),
        ("url_password", "postgres://app:{}@db.invalid:5432/books", "gL9kd72hs"),
        ("url_password", 'MONGO = "mongodb+srv://app:{}@cluster0.invalid/?x=1"', "gL9!kd72hs"),
        ("azure_key", "DefaultEndpointsProtocol=https;AccountName=a;AccountKey={};EndpointSuffix=x", drawn(86) + "=="),
    ],
)
def test_assigned_and_connected(kind, text, value):
    cleaned, counts = secrets.replace(text.format(value))
    assert counts == {kind: 1} and cleaned == text.format(f"REDACTED_{kind.upper()}") and secrets.find(cleaned) == []


@pytest.mark.parametrize(
    "text",
    [
        'password = "changeme"',
        'password = "password123"',
        'api_key = "your-api-key-here-1234"',
        'token = "<YOUR_TOKEN_GOES_HERE_1>"',
        'token = "${GITHUB_TOKEN_FROM_ENV1}"',
        'secret = os.environ["MY_SECRET_NAME_123"]',
        'token_url = "https://login.invalid/oauth2/token1"',
        'secret_name = "projects/1/secrets/db-password-2"',
        'key = "background-color-primary-2"',
        "private_key: x25519.X25519PrivateKey",
        "secret_access_key = options.s3_secret_access_key",
        "postgres://user:password@localhost/books",
        "postgres://{user}:{password}@{host}/books",
        "redis://:$REDIS_PASSWORD@redis:6379",
        "git clone https://host.invalid/a/b.git",
        'sha = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"',
        '"-----BEGIN PRIVATE KEY-----" in text',
        "mask-size-12345678901234567890123456789012345678901234567890",
        "theAKIAIsNoKey = 1",
        "Bearer eyJ",
        "x = data[key:value]",
        'publicKeyToken="1fc8b3b9a1e18e3b"',
        "password = Config2.passwordField",
        "password = self_Password1",
        "password: String?",
        "; password = read_Password1(x);",
        "Authorization: Bearer YOUR_ACCESS_TOKEN_GOES_HERE",
        'password = "caching_sha2_password"',
    ],
)
def test_what_is_no_secret(text):
    assert secrets.find(text) == []


KEY = drawn(64) + "\n" + drawn(64) + "\n" + drawn(31) + "="
BEGIN, END = "-----BEGIN RSA " + "PRIVATE KEY-----", "-----END RSA " + "PRIVATE KEY-----"


def test_private_keys_go_and_the_code_stays():
    bare = f'KEY = """{BEGIN}\n{KEY}\n{END}\n"""\nx = 1\n'
    escaped = "KEY = " + json.dumps(f"{BEGIN}\n{KEY}\n{END}\n") + "\n"
    lines = "KEY = (\n" + "".join(f'    "{line}\\n"\n' for line in (BEGIN, *KEY.split("\n"), END)) + ")\n"
    cut = f"{BEGIN}\n{KEY[:129]}"
    for text in (bare, escaped, lines, cut):
        cleaned, counts = secrets.replace(text)
        assert counts == {"private_key": 1} and drawn(20) not in cleaned and cleaned.count("REDACTED_PRIVATE_KEY") == 1
        assert BEGIN in cleaned and (text is cut or END in cleaned) and secrets.find(cleaned) == []
        if text is not cut:
            assert ast.dump(ast.parse(cleaned)).count("REDACTED_PRIVATE_KEY") == 1
    assert secrets.replace(bare)[0] == f'KEY = """{BEGIN}\nREDACTED_PRIVATE_KEY\n{END}\n"""\nx = 1\n'
    assert secrets.replace(lines)[0].count("\n") == lines.count("\n")


def test_documents_carry_the_counts():
    document = Document(
        "0" * 32, "s", "code", f"a = '{SECRETS['jwt']}'\nb = '{SECRETS['jwt']}'\n", None, {"path": "a.py"}
    )
    cleaned = secrets.Remove()(document)
    assert (
        cleaned.metadata == {"path": "a.py", "secrets": {"jwt": 2}}
        and cleaned.text == "a = 'REDACTED_JWT'\nb = 'REDACTED_JWT'\n"
    )
    assert secrets.Remove()(document.replace(text="a = 1")).metadata == {"path": "a.py"}
    assert secrets.Remove(kinds=("github_token",))(document) == document


PIECES = st.sampled_from(
    [
        *SECRETS.values(),
        BEGIN,
        END,
        KEY,
        "://u:",
        "@h",
        "password='",
        'api_key = "',
        "'",
        '"',
        "\n",
        " ",
        "=",
        "\\n",
        "a@b.co",
        "8.8.8.8",
        drawn(20),
        "EXAMPLE",
    ]
)


@given(st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=12).map("".join))
def test_any_text(text):
    """Spans are ordered and inside the text, and the text between them is unchanged.

    A second pass finds nothing in what formats and blocks replaced.
    """
    spans = secrets.find(text, secrets.KINDS)
    assert all(0 <= s.start < s.end <= len(text) for s in spans) and all(
        a.end <= b.start for a, b in itertools.pairwise(spans)
    )
    cleaned, counts = secrets.replace(text)
    assert sum(counts.values()) == len(secrets.find(text)) and (cleaned == text) == (not counts)


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "a.",
        "a@",
        "://",
        "x:y@",
        "::",
        "1.",
        'key="',
        "password=",
        "\n-",
        BEGIN,
        "eyJ",
        "sk-",
        ":AA",
        "\\n",
        'api_key="A1b2C3d4E5f6G7h8J9" ',
    ],
)
def test_traps_end(unit):
    for text in (unit * (100_000 // len(unit)), (unit + "\n") * 2000):
        assert len(secrets.replace(text, secrets.KINDS)[0]) >= 0


def test_a_long_value_that_is_nearly_words_ends():
    value = "qwrtzpsdkfhxvmnbtrewqplkmnzxcvhgwr" * 5 + "9!"
    assert [s.kind for s in secrets.find(f'token = "{value}"')] == ["secret"]
