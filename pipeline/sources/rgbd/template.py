"""`scans/{scene}/color/{frame}.jpg`: a name with holes, filled from a sample's variables or read back into them."""

import re
from collections.abc import Mapping
from functools import cached_property, lru_cache

_HOLE = re.compile(r"\{([a-z][a-z0-9_]*)(:d)?\}")


class Template:
    """`{name}` is a variable; `{name:d}` the same as a whole number, without leading zeros."""

    def __init__(self, text: str) -> None:
        if rest := re.search(r"[{}]", _HOLE.sub("", text)):
            raise ValueError(
                f"a template's holes are {{name}} or {{name:d}}, of small letters, digits and _, got {text!r} "
                f"with a stray {rest[0]!r}"
            )
        self.text = text

    @property
    def names(self) -> list[str]:
        """The variables, each once, in order."""
        return list(dict.fromkeys(found[1] for found in _HOLE.finditer(self.text)))

    def fill(self, variables: Mapping[str, str]) -> str:
        """The text with every hole filled; KeyError where a variable is not there."""

        def value(found: re.Match[str]) -> str:
            text = variables[found[1]]
            return str(int(text)) if found[2] and text.isdecimal() else text

        return _HOLE.sub(value, self.text)

    def read(self, text: str) -> dict[str, str] | None:
        """The variables with which the template is `text`; None where there are none. No hole holds a slash."""
        found = self._of_paths.fullmatch(text)
        return found.groupdict() if found else None

    def read_words(self, text: str) -> dict[str, str] | None:
        """The same for a line of words: a hole may hold slashes, and no blank unless it is the whole line."""
        found = self._of_words.fullmatch(text)
        return found.groupdict() if found else None

    @cached_property
    def _of_paths(self) -> re.Pattern[str]:
        return self._pattern("[^/]+")

    @cached_property
    def _of_words(self) -> re.Pattern[str]:
        whole = len(_HOLE.findall(self.text)) == 1 and " " not in self.text
        return self._pattern(".+" if whole else r"\S+")

    def _pattern(self, hole: str) -> re.Pattern[str]:
        seen: set[str] = set()
        pattern, end = "", 0
        for found in _HOLE.finditer(self.text):
            name = found[1]
            pattern += re.escape(self.text[end : found.start()])
            pattern += f"(?P={name})" if name in seen else f"(?P<{name}>{hole})"
            seen.add(name)
            end = found.end()
        return re.compile(pattern + re.escape(self.text[end:]))


of_text = lru_cache(1000)(Template)  # for what is filled once a sample
