"""Asserts in the modules that tests share explain themselves as those in tests do."""

import pytest

pytest.register_assert_rewrite("tinyauthstore.testing", "support")
