"""Each parser's fuzzer for a moment; `make fuzz` runs them longer."""
import os
import re
import subprocess
import unittest

from harness import BUILD, ROOT, SCALE, scaled

SECONDS = 2


class Fuzz(unittest.TestCase):
    time_limit = 300

    @unittest.skipIf(SCALE > 1, "the fuzzers bring their own sanitizers")
    def test_each_parser_for_a_moment(self):
        """Goal of this test: every fuzz target builds and finds nothing in a short run."""
        targets = {path.stem for path in (ROOT / "tests" / "fuzz").glob("fuzz_*.c")}
        # A make around this test has options of its own.
        environment = {name: value for name, value in os.environ.items()
                       if name not in ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES")}
        done = subprocess.run(["make", "--no-print-directory", f"BUILD={BUILD}",
                               f"FUZZ_SECONDS={SECONDS}", "fuzz"], cwd=ROOT, text=True,
                              env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=scaled(280))
        self.assertEqual(done.returncode, 0, done.stdout[-4000:])
        tried = dict(re.findall(r"^(fuzz_\w+): inputs tried without a failure: (\d+)$", done.stdout, re.M))
        self.assertEqual(set(tried), targets)
        for target, count in tried.items():
            self.assertGreater(int(count), 1000, target)
        self.said = ", ".join(f"{target} {count}" for target, count in sorted(tried.items()))


if __name__ == "__main__":
    unittest.main()
