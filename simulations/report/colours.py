"""Colours that are seen on both of the page's backgrounds. Source of all formulas: WCAG 2.2."""

LIGHT, DARK = "#ffffff", "#15181d"  # the page's backgrounds, as in page.css
TEXT, LINES = 4.5, 3.0  # the least contrast of text and of lines, level AA
STEPS = 20  # of a mixture


def luminance(colour: str) -> float:
    """Return the relative luminance of "#rrggbb", in [0, 1]."""
    parts = [value / 255 for value in bytes.fromhex(colour[1:])]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, from 1 to 21."""
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def seen_on(background: str, colour: str, least: float) -> str:
    """Mix a colour with white on a dark background, with black on a light one, as little as gives it contrast.

    Args:
        background: "#rrggbb".
        colour: likewise.
        least: the contrast that it shall have.
    """
    end = 255 if luminance(background) < 0.5 else 0
    for step in range(STEPS + 1):
        mixed = "#" + bytes(round(v + (end - v) * step / STEPS) for v in bytes.fromhex(colour[1:])).hex()
        if contrast(mixed, background) >= least:
            break
    return mixed


def in_both_schemes(colour: str, least: float = LINES) -> dict[str, str]:
    """Return a colour for the light and one for the dark scheme; least: the contrast of both."""
    return {"light": seen_on(LIGHT, colour, least), "dark": seen_on(DARK, colour, least)}
