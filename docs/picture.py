"""Draw docs/picture.svg: one Gaussian q fitted to a mixture p of two, by either KL.

    python docs/picture.py

The textbook's picture, computed: both fits minimise their KL over mean and width by a search on
grids that become finer. Needs numpy alone.
"""
import pathlib

import numpy as np

x = np.linspace(-9, 9, 3601)
dx = x[1] - x[0]


def log_normal(mean, width):
    return -0.5 * ((x - mean) / width) ** 2 - np.log(width * np.sqrt(2 * np.pi))


log_p = np.logaddexp(np.log(0.6) + log_normal(-2, 0.7), np.log(0.4) + log_normal(2, 0.7))


def kl(log_a, log_b):
    return np.sum(np.exp(log_a) * (log_a - log_b)) * dx


def fit(divergence):
    """(mean, width) that minimise divergence(log_q)."""
    mean, width = 0.0, 2.0
    for reach in 3.0 * 0.5 ** np.arange(20):
        means = mean + reach * np.linspace(-1, 1, 21)
        widths = np.maximum(0.1, width + reach / 2 * np.linspace(-1, 1, 21))
        grid = [(divergence(log_normal(m, w)), m, w) for m in means for w in widths]
        _, mean, width = min(grid)
    return mean, width


def path(y, left):
    """A panel's curve of density y (0.4 is its height) as an SVG path."""
    points = zip(left + (x[::20] + 5) * 34, 178 - 240 * y[::20])
    return "M" + " L".join(f"{a:.1f},{b:.1f}" for a, b in points if left <= a <= left + 340)


def panel(left, colour, title, words, divergence):
    mean, width = fit(divergence)
    log_q = log_normal(mean, width)
    print(f"{title}: mean {mean:.3f}, width {width:.3f}; KL(p||q) {kl(log_p, log_q):.3f}, "
          f"KL(q||p) {kl(log_q, log_p):.3f}")
    p = path(np.exp(log_p), left)
    return f"""
  <path d="{p} L{left + 340},178 L{left},178 Z" fill="#808b96" fill-opacity=".25"/>
  <path d="{p}" fill="none" stroke="#808b96" stroke-width="1.5"/>
  <path d="{path(np.exp(log_q), left)}" fill="none" stroke="{colour}" stroke-width="2.5"/>
  <path d="M{left},178 h340" stroke="#808b96"/>
  <text x="{left + 170}" y="20" fill="{colour}" font-weight="bold">{title}</text>
  <text x="{left + 170}" y="200">{words}</text>"""


forward = panel(10, "#2f7fe0", "forward KL(p‖q)", "covers both modes, and the gap between them",
                lambda log_q: kl(log_p, log_q))
reverse = panel(390, "#d9660a", "reverse KL(q‖p)", "seeks one mode, leaves the other out",
                lambda log_q: kl(log_q, log_p))

pathlib.Path(__file__).with_name("picture.svg").write_text(f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 740 210" width="740" height="210" role="img"
  font-family="system-ui, sans-serif" font-size="14" text-anchor="middle" fill="#757d86">
  <title>One Gaussian student fitted to a teacher of two modes, by forward and reverse KL</title>
{forward}
{reverse}
  <text x="66" y="90" font-size="13">teacher p</text>
  <text x="180" y="122" font-size="13" fill="#2f7fe0">student q</text>
  <text x="566" y="80" font-size="13" fill="#d9660a">student q</text>
  <text x="630" y="112" font-size="13">teacher p</text>
</svg>
""")
