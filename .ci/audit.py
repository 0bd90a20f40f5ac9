"""Known vulnerabilities of installed packages, by pip-audit: python .ci/audit.py SITE_PACKAGES

Ends with status 1 where some are known. Where PyPI's service cannot be asked it says so and ends with 0: that is no answer
about the packages.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path


def main(packages: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "audit.json")
        command = [sys.executable, "-m", "pip_audit", "--path", packages, "--skip-editable", "--timeout", "15"]
        command += ["--progress-spinner", "off", "--format", "json", "--output", str(answer)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if not answer.is_file():
            last = (ran.stderr.strip().splitlines() or ["no message"])[-1]
            print(f"pip-audit: no package was checked, since the service cannot be asked from here ({last})")
            return 0
        found = json.loads(answer.read_text())["dependencies"]
    checked = [package for package in found if "vulns" in package]
    for package in checked:
        for vulnerability in package["vulns"]:
            fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
            print(f"pip-audit: {package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}")
    skipped = len(found) - len(checked)
    unknown = f"; the service knows nothing of the other {skipped}" if skipped else ""
    count = sum(bool(package["vulns"]) for package in checked)
    print(
        f"pip-audit: {len(checked)} of {len(found)} packages were checked, {count} have known vulnerabilities{unknown}"
    )
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
