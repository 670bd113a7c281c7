"""``python -m seqtex_core.attention``: every implementation and why it cannot run here."""

from __future__ import annotations

from .choose import list_attention


def main() -> None:
    """Print the list, one line each."""
    for name, reason in list_attention():
        print(f"{name:16}{'ready' if reason is None else reason}")


if __name__ == "__main__":
    main()
