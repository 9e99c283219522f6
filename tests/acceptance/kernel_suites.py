"""Jupyter's own suite for kernels, told what our kernels' languages look like.

Not collected by pytest: test_kernel_suite.py runs it as ``python -m unittest`` does.  History
is left out: with ipykernel 7 its tests fail for a plain local kernel just the same.
"""

from __future__ import annotations

from typing import Any

import jupyter_kernel_test


class Python(jupyter_kernel_test.KernelTests):  # type: ignore[misc]
    kernel_name = "backendai-python"
    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('test', file=sys.stderr)"
    code_page_something = "zip?"
    code_generate_error = "1/0"
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"
    completion_samples: Any = ({"text": "zi", "matches": {"zip"}},)
    complete_code_samples = ("1", "print('hello, world')", "def f(x):\n  return x*2\n\n\n")
    incomplete_code_samples = ("print('''hello", "def f(x):\n  x*2")
    invalid_code_samples = ("import = 7q",)
    code_execute_result: Any = ({"code": "1+2+3", "result": "6"},)
    code_display_data: Any = (
        {
            "code": "from IPython.display import HTML, display; display(HTML('<b>t</b>'))",
            "mime": "text/html",
        },
        {
            "code": "from IPython.display import Math, display; display(Math('x'))",
            "mime": "text/latex",
        },
    )


class R(jupyter_kernel_test.KernelTests):  # type: ignore[misc]
    kernel_name = "backendai-r"
    language_name = "R"
    file_extension = ".r"
    code_hello_world = 'print("hello, world")'
    code_stderr = "message('test')"
    code_generate_error = "stop('on purpose')"
    completion_samples: Any = ({"text": "zi", "matches": {"zip"}},)
    complete_code_samples = ("1", 'print("hello, world")', "f <- function (x) {\n  x*2\n}")
    incomplete_code_samples = ('print("hello', "f <- function (x) {\n  x*2")
    # IRkernel sends what a cell evaluates to as display_data, never as execute_result.
    code_display_data: Any = (
        {"code": "1+2+3", "mime": "text/plain"},
        {"code": "IRdisplay::display_html('<b>t</b>')", "mime": "text/html"},
    )
