"""The fleet of the simulation: web apps, pages, tests and requirements, with latent fault and flake rates."""

from dataclasses import dataclass

import numpy as np

from mlops_assets.experiences.simulator.config import SimulatorConfig
from mlops_assets.experiences.simulator.problem import Floats, Integers, ItemProfile
from mlops_assets.experiences.simulator.texts import AREAS, RISK_LEVELS, Requirement, requirements_from

BROWSERS = ("chromium", "firefox", "webkit")
FRAMEWORKS = ("react", "angular", "vue", "svelte")
TEST_TYPES = ("e2e", "component", "api", "accessibility", "visual")
APPS = 12
TESTS_PER_APP = 34
FAULT_LEVELS = 4
# Share of runs that fail for a reason, per fault level.
FAULT_RATES = (0.004, 0.03, 0.1, 0.25)
# FlakeFlagger (Alshammari et al., ICSE 2021), 22,245 tests x 10,000 reruns: 3.65 % fail sometimes but not always; their
# failure rate has mean 0.110, and this is the beta distribution of largest likelihood.
FLAKY_SHARE = 0.0365
FLAKE_BETA = (0.238, 1.893)
# Alternatives per app and item, of which an episode takes one at random.
CHOICES = 3
_FLEET_STREAM = 1
_PAGES = ("login", "registration", "search", "catalogue", "checkout", "profile", "orders", "dashboard")
_PAGE_AREAS = (0, 0, 1, 1, 0, 2, 2, 2)
_CASES = (
    "shows its content", "keeps its state after a reload", "rejects bad values", "works with the keyboard only",
    "survives a slow network", "answers an empty result",
)  # fmt: skip
_FASTEST_MS = 800.0
_SPREAD_OF_LENGTHS = 12.0


@dataclass(frozen=True)
class Fleet:
    """Apps, tests (N) and requirements (R). Levels are 0..1; rates are per run; durations in ms.

    `test_app` and `requirement_app` are indices of the app that a test or requirement belongs to.
    """

    framework: tuple[str, ...]
    test_id: tuple[str, ...]
    test_name: tuple[str, ...]
    suite: tuple[str, ...]
    browser: tuple[str, ...]
    test_type: tuple[str, ...]
    test_app: Integers
    test_area: Integers
    fault_level: Floats
    length_level: Floats
    fault_rate: Floats
    flake_rate: Floats
    duration_ms: Floats
    requirements: tuple[Requirement, ...]
    requirement_app: Integers

    def test_choices(self, profile: ItemProfile) -> Integers:
        """Return the tests nearest to every item in every app, (APPS, K, CHOICES)."""
        area = profile.area[:, None]
        distance = (
            4.0 * ((area >= 0) & (area != self.test_area))
            + 2.0 * np.abs(profile.risk[:, None] - self.fault_level)
            + np.abs(profile.duration[:, None] - self.length_level)
            + np.abs(profile.flaky[:, None] - (self.flake_rate > 0))
        )
        return self._nearest(distance, self.test_app)

    def requirement_choices(self, profile: ItemProfile) -> Integers:
        """Return the requirements nearest to every item in every app, (APPS, K, CHOICES)."""
        areas = np.array([AREAS.index(item.area) for item in self.requirements])
        risks = np.array([item.risk for item in self.requirements]) / (RISK_LEVELS - 1)
        area = profile.area[:, None]
        distance = 4.0 * ((area >= 0) & (area != areas)) + np.abs(profile.risk[:, None] - risks)
        return self._nearest(distance, self.requirement_app)

    @staticmethod
    def _nearest(distance: Floats, owner: Integers) -> Integers:
        elsewhere = 100.0 * (np.arange(APPS)[:, None, None] != owner)
        order = np.argsort(distance + elsewhere, axis=-1, kind="stable")
        return np.resize(order[..., :CHOICES], (*order.shape[:2], CHOICES))


def build_fleet(config: SimulatorConfig) -> Fleet:
    """Build the fleet of a world.

    Raises:
        InputError: the config's user stories cannot be read.
    """
    random = np.random.default_rng([config.seed, _FLEET_STREAM])
    count = APPS * TESTS_PER_APP
    app = np.repeat(np.arange(APPS), TESTS_PER_APP)
    slot = np.tile(np.arange(TESTS_PER_APP), APPS)
    page, case = slot % len(_PAGES), slot // len(_PAGES)
    # Every app has every combination of fault and length level; page and browser go with neither.
    fault = (slot // 2 + app) % FAULT_LEVELS
    length = (slot + slot // len(_PAGES)) % 2
    browser = [BROWSERS[(a + s) % len(BROWSERS)] for a, s in zip(app, slot, strict=True)]
    suite = [f"{app_name(int(a))}/{_PAGES[p]}" for a, p in zip(app, page, strict=True)]
    name = [_CASES[c] for c in case]
    requirements = requirements_from(config.user_stories)
    flaky = random.random(count) < FLAKY_SHARE
    return Fleet(
        framework=tuple(FRAMEWORKS[a % len(FRAMEWORKS)] for a in range(APPS)),
        test_id=tuple(f"{s} › {n} [{b}]" for s, n, b in zip(suite, name, browser, strict=True)),
        test_name=tuple(name),
        suite=tuple(suite),
        browser=tuple(browser),
        test_type=tuple(TEST_TYPES[k] for k in random.choice(len(TEST_TYPES), count, p=(0.5, 0.2, 0.15, 0.1, 0.05))),
        test_app=app,
        test_area=np.array(_PAGE_AREAS)[page],
        fault_level=fault / (FAULT_LEVELS - 1),
        length_level=length.astype(float),
        fault_rate=np.array(FAULT_RATES)[fault],
        flake_rate=np.where(flaky, random.beta(*FLAKE_BETA, count), 0.0),
        duration_ms=_FASTEST_MS * (1 + length * (_SPREAD_OF_LENGTHS - 1)) * random.lognormal(0.0, 0.3, count),
        requirements=requirements,
        requirement_app=np.arange(len(requirements)) % APPS,
    )


def app_name(app: int) -> str:
    """Return the name of an app from its index."""
    return f"app-{app + 1:02d}"
