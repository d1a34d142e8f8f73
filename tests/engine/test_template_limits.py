"""Chat templates that come with a model's folder and mean harm."""

from datetime import datetime

import pytest

from alorakit.engine import template_limits
from alorakit.engine.chat_template import ChatTemplate
from alorakit.engine.errors import TokenizerError

NOW = datetime(2026, 1, 2)
MESSAGES = [{"role": "user", "content": "x"}]
ESCAPES = [
    "{{ messages.__class__.__mro__ }}", "{{ ''|attr('__class__') }}", "{{ '{0.__class__}'.format(1) }}",
    "{{ ('{0.__cla' ~ 'ss__}').format(1) }}", "{{ [messages]|map(attribute='__class__')|list }}",
    "{{ raise_exception.__globals__ }}", "{{ self.__init__.__globals__ }}", "{{ cycler.__init__.__globals__.os }}",
    "{{ namespace.__init__.__globals__ }}", "{{ strftime_now.__self__.source }}", "{{ messages['__class__'] }}",
    "{{ '{a.__class__}'.format_map({'a': 1}) }}", "{% set x = messages.append(1) %}", "{{ messages[0].clear() }}",
    "{% import 'os' as os %}", "{% include '/etc/passwd' %}", "{% extends '/etc/passwd' %}", "{{ lipsum() }}",
    "{{ (1).__class__.__base__.__subclasses__() }}", "{{ ''['__cla' + 'ss__'] }}",
    "{{ messages|map('attr', '__class__')|list }}", "{% for x in messages.__iter__() %}{{ x }}{% endfor %}",
]  # fmt: skip
ENDLESS = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(99999) if range(9999)|sum < 0 %}{% endfor %}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "{% for i in [[]] recursive %}{{ loop([[]]) }}{% endfor %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}xxxxxxxxxxxxxxxx{% endfor %}{% endfor %}",
]
HUGE = [
    "{{ ('x' * 10**9)|length }}", "{{ ([1] * 10**9)|length }}", "{{ 10**(10**10) }}", "{{ 'x'.center(10**9)|length }}",
    "{{ ('%1000000000d' % 1)|length }}", "{{ ('%*d' % (10**9, 1))|length }}", "{{ '{:1000000000}'.format(1)|length }}",
    "{% set ns = namespace(x='xx') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "{% set ns = namespace(x='xx') %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{{ messages|tojson(indent=10**9) }}", "{{ ('x' * 99999).replace('x', 'y' * 99999)|length }}",
    "{{ ('x' * 99999)|replace('x', 'y' * 99999)|length }}", "{{ range(99999)|join('y' * 99999)|length }}",
    "{{ ('y' * 99999).join(range(99999)|map('string')|list)|length }}", "{{ 'x'|center(10**9)|length }}",
    "{{ '%1000000000d'|format(1)|length }}", "{{ 'x'.ljust(10**9)|length }}", "{{ ('\n' * 99999)|indent(99999) }}",
]  # fmt: skip


def render(source: str) -> str:
    return ChatTemplate(source, NOW).render(MESSAGES, False)


@pytest.mark.parametrize("source", ESCAPES)
def test_nothing_escapes_the_sandbox(source: str) -> None:
    try:
        text = render(source)
    except TokenizerError:
        return
    assert text in ("", "[Undefined]"), text


@pytest.mark.parametrize("source", ENDLESS)
def test_what_takes_for_ever(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setattr(template_limits, "MAX_CPU_S", 0.1)
    with pytest.raises(TokenizerError, match=r"more than 0\.1 seconds|recursion|8000000"):
        render(source)


@pytest.mark.parametrize("source", HUGE)
def test_what_takes_all_memory(source: str) -> None:
    with pytest.raises(TokenizerError, match=r"too large|width|indent|seconds"):
        render(source)


def test_ordinary_templates_are_what_they_were() -> None:
    source = (
        "{% macro turn(m) %}{{ m.role ~ ': ' + m.content * 2 }}{% endmacro %}{% for m in messages if m.role %}"
        "{{ loop.index }}{{ turn(m) }}{{ '%5.1f|{:>4}'|replace('|', '!') }}{{ '{:>4}'.format(7) }}{{ '%3d' % 5 }}"
        "{{ [m.role, 'b']|join('-') }}{{ 2 ** 5 + 7 % 4 }}{{ m|tojson(indent=1) }}{{ 0.5 * 3 }}{% endfor %}"
    )
    expected = '1user: xx%5.1f!{:>4}   7  5user-b35{\n "role": "user",\n "content": "x"\n}1.5'
    assert render(source) == expected
