"""What the Python driver tests share: the list of checks, the watchdog and the way results are told.

A test names the database by its first argument or by DATABASE_URL (the user must be a superuser: the checks
create roles). Each check prints one line; the first failure prints a traceback and ends the process with status
1, and so does the watchdog: behind a pooler a hang is the likeliest fault. While hunting, ONLY=name runs one check
and KEEP_GOING=1 all of them, whatever fails.
"""

import faulthandler
import os
import sys
import threading
import time
import traceback

CLIENTS = 12  # Must exceed the pool that the tests run through.
ROUNDS = 40
WATCHDOG_SECONDS = 150

CHECKS = []
_running = "start-up"


def check(function):
    """Register `function` (plain or a coroutine function); checks run in the order of the file."""
    CHECKS.append(function)
    return function


def database_url():
    url = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("DATABASE_URL")
    if not url:
        sys.exit(f"usage: {sys.argv[0]} postgres://user:password@host:port/database")
    return url


def same(found, wanted, what):
    """Fail unless `found == wanted`; long values are shown by their ends."""
    if found != wanted:
        raise AssertionError(f"{what}: got {_short(found)}, wanted {_short(wanted)}")


def _short(value):
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:140]} ... {text[-140:]} ({len(text)} characters)"


def raises(error, act):
    """Run `act()` and hand back the `error` that it must raise."""
    try:
        act()
    except error as caught:
        return caught
    raise AssertionError(f"{error.__name__} was not raised")


def in_threads(work, count=CLIENTS):
    """Run `work(number)` in `count` threads; the first failure is raised here, once all have ended."""
    failures = []

    def guarded(number):
        try:
            work(number)
        except BaseException as error:  # noqa: B902 - handed to the caller
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(n,), daemon=True) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def run(driver, each):
    """Run every check by `each(check)` and end the process."""
    only, keep_going = os.environ.get("ONLY"), os.environ.get("KEEP_GOING")  # While hunting.
    failed = 0
    watchdog = threading.Timer(WATCHDOG_SECONDS, _expired, args=(driver,))
    watchdog.daemon = True
    watchdog.start()
    for function in CHECKS:
        if only and only != function.__name__:
            continue
        _tell(function.__name__)
        started = time.monotonic()
        try:
            each(function)
        except BaseException:  # noqa: B902 - whatever it was, the test has failed
            traceback.print_exc()
            print(f"FAILED {driver}: {function.__name__}", file=sys.stderr, flush=True)
            failed += 1
            if not keep_going:
                os._exit(1)
            continue
        print(f"ok {driver}: {function.__name__} ({(time.monotonic() - started) * 1000:.0f} ms)", flush=True)
    if failed:
        os._exit(1)
    print(f"{driver}: {len(CHECKS)} checks passed", flush=True)


def _tell(name):
    global _running
    _running = name


def _expired(driver):
    faulthandler.dump_traceback(all_threads=True)
    print(f"FAILED {driver}: {_running} hangs (watchdog, {WATCHDOG_SECONDS} s)", file=sys.stderr, flush=True)
    os._exit(1)
