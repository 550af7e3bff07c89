"""`python -m platform.run`, started from the repository root; elsewhere `wmplatform` does the same.

Only the root of a checkout has this module. From another folder, or under `python -P` or `-I`,
Python takes the standard library's `platform`, which is one file and holds no `run`. Python then
stops with a message of its own ("__path__ attribute not found on 'platform'", in newer versions
"'platform' is not a package") before any code of ours; `wmplatform` and `python -m wmplatform`
work there.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # a spawned worker imports this file again, and needs nothing of it
    checkout = Path(__file__).resolve().parent.parent
    for root in (checkout / "plugins", checkout / "platform"):
        if str(root) not in sys.path:
            sys.path.insert(1, str(root))  # after the current folder, before an installed copy

    try:
        from wmplatform.cli import main
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("wmplatform"):
            raise
        print(
            f"{error.name} is not installed for {sys.executable}\n"
            f"  fix  {sys.executable} -m pip install -e {checkout}",
            file=sys.stderr,
        )
        sys.exit(4)
    sys.exit(main())
