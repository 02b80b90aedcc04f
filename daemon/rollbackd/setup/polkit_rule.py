"""The polkit rule that lets the daemon's user do to configured units what their layers do, and nothing else. No I/O.

https://www.freedesktop.org/software/polkit/docs/latest/polkit.8.html
"""

import json
from collections.abc import Mapping, Sequence

PLACE = "/etc/polkit-1/rules.d/50-rollbackd.rules"
_RULE = """\
polkit.addRule(function (action, subject) {
    var allowed = {
%s
    };
%s    if (action.id !== "org.freedesktop.systemd1.manage-units" || subject.user !== "rollbackd") {
        return polkit.Result.NOT_HANDLED;
    }
    var unit = action.lookup("unit");
    var verbs = allowed.hasOwnProperty(unit) ? allowed[unit] : [];
    return verbs.indexOf(action.lookup("verb")) >= 0 ? polkit.Result.YES : polkit.Result.NOT_HANDLED;
});
"""


_REREADING = """\
    if (action.id === "org.freedesktop.systemd1.reload-daemon" && subject.user === "rollbackd") {
        return polkit.Result.YES;
    }
"""
"""For units that are started: their definitions may be what went back."""


def rule(units: Mapping[str, Sequence[str]]) -> str:
    """The text of the file.

    :param units: each with its verbs.
    """
    rows = [f"        {json.dumps(name)}: {json.dumps(sorted(verbs))}," for name, verbs in sorted(units.items())]
    started = any(set(verbs) - {"reload"} for verbs in units.values())
    return _RULE % ("\n".join(rows), _REREADING if started else "")
