# Sourced by the programs of this folder with $self, the path of the program, and its arguments.
# Sets $root and $python; where .venv/ is missing or out of date, bootstrap.py makes it and starts the program again.
root=${self%/bin/*}
python=$root/.venv/bin/python
made=$root/.venv/made-from

fresh() {
    [ -x "$python" ] && [ ! -e "$root/.venv/in-progress" ] && IFS= read -r place 2>/dev/null <"$made/checkout" &&
        [ "$place" = "$root" ] && cmp -s "$root/constraints.txt" "$made/constraints.txt" &&
        cmp -s "$root/pyproject.toml" "$made/pyproject.toml"
}

if ! fresh; then
    for candidate in python3 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            exec "$candidate" -I "$root/bin/bootstrap.py" "$self" "$@"
        fi
    done
    echo "llmos: there is no Python 3.11 or newer on PATH" >&2
    echo "fix: apt-get install python3 python3-venv" >&2
    exit 3
fi
